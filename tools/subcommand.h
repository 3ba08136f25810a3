/*
 * The subcommands of `tern`: one file each, listed in main.c. A subcommand parses
 * its own options (option.h), writes results to standard output, errors to standard error,
 * and returns an exit code.
 */
#ifndef TERN_TOOLS_SUBCOMMAND_H
#define TERN_TOOLS_SUBCOMMAND_H

enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1, /* the work failed: a file, the device, memory */
    EXIT_CODE_USAGE = 2,  /* an unknown or malformed option or argument */
};

int subcommand_serve(int argc, char **argv);
int subcommand_walk(int argc, char **argv);
int subcommand_chat(int argc, char **argv);
int subcommand_logits(int argc, char **argv);
int subcommand_generate(int argc, char **argv);
int subcommand_tokenize(int argc, char **argv);
int subcommand_detokenize(int argc, char **argv);
int subcommand_dump(int argc, char **argv);
int subcommand_inspect(int argc, char **argv);
int subcommand_verify(int argc, char **argv);
int subcommand_render(int argc, char **argv);
int subcommand_model(int argc, char **argv);
int subcommand_bench(int argc, char **argv);

#endif
