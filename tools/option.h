/*
 * Command-line options of one subcommand: a table of `--name value` and
 * `--flag` entries, parsed in one call that prints the usage for --help and names
 * a wrong option. `--name=value` works too; `--` ends the options; of an option
 * given twice the last one counts.
 */
#ifndef TERN_TOOLS_OPTION_H
#define TERN_TOOLS_OPTION_H

#include "base/err.h"

enum option_kind {
    OPTION_FLAG,   /* int: set to 1 */
    OPTION_TEXT,   /* const char * */
    OPTION_INT,    /* long long within [min, max] */
    OPTION_NUMBER, /* double within [min, max] */
    OPTION_BYTES,  /* long long of bytes: 64K, 512M, 2G (1024-based) within [min, max] */
};

struct option_entry {
    const char *name; /* without dashes */
    enum option_kind kind;
    void *value;          /* where the parsed value goes; holds the default before */
    const char *argument; /* name of the value in the usage text: "FILE"; NULL for flags */
    const char *help;     /* one line */
    double min;           /* numbers; min == max == 0: any */
    double max;
};

struct option_spec {
    const char *usage;   /* "tern logits --model FILE --tokens FILE --out FILE [options]" */
    const char *summary; /* what it does, a few lines */
    const struct option_entry *entries;
    size_t count;
    int positional_max; /* arguments that are no options */
};

enum option_outcome {
    OPTION_RUN,        /* go on */
    OPTION_HELP_SHOWN, /* the usage was asked for and stands on standard output: exit with 0 */
    OPTION_WRONG,
};

/*
 * argv[0] is the subcommand's name. Positional arguments go to POSITIONALS (positional_max
 * entries), their number to *positional_count; both may be NULL if there are none. OPTION_WRONG:
 * the complaint has been printed to standard error, and the caller returns EXIT_CODE_USAGE.
 */
enum option_outcome option_parse(const struct option_spec *spec, int argc, char **argv,
                                 const char **positionals, int *positional_count);

/* Complains that option NAME is missing, for those without a default; returns OPTION_WRONG. */
enum option_outcome option_missing(const char *subcommand, const char *name);

#endif
