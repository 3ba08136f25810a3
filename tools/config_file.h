/*
 * A config file of `tern serve`: lines `name = value` with the names of its options
 * (`name` alone for a flag), blank lines and lines that begin with #. It is turned
 * into options in front of those of the command line, which therefore win.
 */
#ifndef TERN_TOOLS_CONFIG_FILE_H
#define TERN_TOOLS_CONFIG_FILE_H

#include "base/err.h"

/* Owned arguments: argv[0], the file's options, then the command line's without --config. */
struct config_file {
    char **argv; /* ends with NULL */
    int argc;
};

/* Without --config the arguments as they are. ERR_FORMAT names file and line. */
MUST_USE enum err config_file_expand(int argc, char **argv, struct config_file *out);
void config_file_done(struct config_file *config); /* also fits CLEANUP */

#endif
