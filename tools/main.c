/*
 * tern: finds the subcommand and runs it. Exit codes are those of subcommand.h.
 */
#include "tools/subcommand.h"

#include <stdio.h>
#include <string.h>

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help; /* one line */
};

static const struct subcommand subcommands[] = {
    {"serve", subcommand_serve, "serve conversations over HTTP"},
    {"chat", subcommand_chat, "talk with a server in the terminal"},
    {"generate", subcommand_generate, "continue a prompt with a model"},
    {"logits", subcommand_logits, "write a model's logits for given token ids"},
    {"model", subcommand_model, "say what a model file holds"},
    {"dump", subcommand_dump, "write the state of a conversation as safetensors"},
    {"inspect", subcommand_inspect, "list what a store holds: conversations, heads, objects"},
    {"verify", subcommand_verify, "read every record of a store and say what is wrong"},
    {"tokenize", subcommand_tokenize, "turn text into token ids"},
    {"detokenize", subcommand_detokenize, "turn token ids into text"},
    {"render", subcommand_render, "show what a model's chat template makes of messages"},
    {"bench", subcommand_bench, "measure speed"},
    {"walk", subcommand_walk, "read a whole environment, as a start after a crash does"},
};

static const size_t subcommand_count = sizeof subcommands / sizeof subcommands[0];

static void print_usage(FILE *out) {
    fprintf(out, "usage: tern SUBCOMMAND [options]\n"
                 "       tern --help | --version\n\n"
                 "A chat server for hybrid language models that keeps conversations' state.\n\n"
                 "subcommands:\n");
    for (size_t i = 0; i < subcommand_count; i++) {
        fprintf(out, "  %-12s  %s\n", subcommands[i].name, subcommands[i].help);
    }
    fprintf(out,
            "\ntern SUBCOMMAND --help lists its options.\n\n"
            "exit codes: %d done, %d failed (a file, the device, memory), %d wrong usage\n",
            EXIT_CODE_OK, EXIT_CODE_FAILED, EXIT_CODE_USAGE);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_CODE_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_usage(stdout);
        return EXIT_CODE_OK;
    }
    if (strcmp(name, "--version") == 0) {
        printf("tern %s\n", TERN_VERSION);
        return EXIT_CODE_OK;
    }
    for (size_t i = 0; i < subcommand_count; i++) {
        if (strcmp(name, subcommands[i].name) == 0) {
            return subcommands[i].run(argc - 1, argv + 1);
        }
    }
    fprintf(stderr, "tern: unknown %s '%s' (tern --help lists the subcommands)\n",
            name[0] == '-' ? "option" : "subcommand", name);
    return EXIT_CODE_USAGE;
}

int main(int argc, char **argv) {
    int code = run(argc, argv);
    /* What could not be written was not done: a full disk must not look like success. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("tern: standard output");
        return code == EXIT_CODE_OK ? EXIT_CODE_FAILED : code;
    }
    return code;
}
