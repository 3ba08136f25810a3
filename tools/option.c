#include "tools/option.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMN_MAX = 32 };

/* The usage. */

static int left_column(const struct option_entry *entry, char *out, size_t size) {
    return entry->argument == NULL ? snprintf(out, size, "--%s", entry->name)
                                   : snprintf(out, size, "--%s %s", entry->name, entry->argument);
}

static void print_usage(const struct option_spec *spec) {
    char left[128];
    int width = left_column(&(struct option_entry){.name = "help"}, left, sizeof left);
    for (size_t i = 0; i < spec->count; i++) {
        int len = left_column(&spec->entries[i], left, sizeof left);
        width = len > width && len <= HELP_COLUMN_MAX ? len : width;
    }
    printf("usage: %s\n\n%s\n\noptions:\n", spec->usage, spec->summary);
    for (size_t i = 0; i < spec->count; i++) {
        left_column(&spec->entries[i], left, sizeof left);
        printf("  %-*s  %s\n", width, left, spec->entries[i].help);
    }
    printf("  %-*s  %s\n", width, "--help", "show this text");
}

/* The complaint. */

static enum option_outcome wrong(const char *subcommand, const char *format, ...) PRINTF_LIKE(2, 3);

static enum option_outcome wrong(const char *subcommand, const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "tern %s: ", subcommand);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (tern %s --help lists the options)\n", subcommand);
    return OPTION_WRONG;
}

/* Values. Each parser returns 0 for text that is no such value. */

static int parse_int(const char *text, long long *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || isspace((unsigned char)text[0])) {
        return 0;
    }
    *out = value;
    return 1;
}

static int parse_number(const char *text, double *out) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || isspace((unsigned char)text[0])) {
        return 0;
    }
    *out = value;
    return 1;
}

static int parse_bytes(const char *text, long long *out) {
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || errno != 0) {
        return 0;
    }
    if (*end != '\0') {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (unit == NULL || end[1] != '\0') {
            return 0;
        }
        for (const char *step = units; step <= unit; step++) {
            if (value > LLONG_MAX / 1024) {
                return 0;
            }
            value *= 1024;
        }
    }
    *out = value;
    return 1;
}

static int is_in_range(const struct option_entry *entry, double value) {
    return (entry->min == 0 && entry->max == 0) || (value >= entry->min && value <= entry->max);
}

static const char *kind_name(enum option_kind kind) {
    switch (kind) {
    case OPTION_INT:
        return "a whole number";
    case OPTION_NUMBER:
        return "a number";
    case OPTION_BYTES:
        return "a size such as 512M";
    case OPTION_FLAG:
    case OPTION_TEXT:
        break;
    }
    return "a value";
}

static enum option_outcome wrong_value(const char *subcommand, const struct option_entry *entry,
                                       const char *text) {
    if (entry->min == 0 && entry->max == 0) {
        return wrong(subcommand, "option --%s: '%s' is not %s", entry->name, text,
                     kind_name(entry->kind));
    }
    return wrong(subcommand, "option --%s: '%s' is not %s from %.15g to %.15g", entry->name, text,
                 kind_name(entry->kind), entry->min, entry->max);
}

static enum option_outcome set_value(const char *subcommand, const struct option_entry *entry,
                                     const char *text) {
    long long integer;
    double number;
    switch (entry->kind) {
    case OPTION_TEXT:
        *(const char **)entry->value = text;
        return OPTION_RUN;
    case OPTION_INT:
    case OPTION_BYTES:
        if (!(entry->kind == OPTION_INT ? parse_int(text, &integer)
                                        : parse_bytes(text, &integer)) ||
            !is_in_range(entry, (double)integer)) {
            return wrong_value(subcommand, entry, text);
        }
        *(long long *)entry->value = integer;
        return OPTION_RUN;
    case OPTION_NUMBER:
        if (!parse_number(text, &number) || !is_in_range(entry, number)) {
            return wrong_value(subcommand, entry, text);
        }
        *(double *)entry->value = number;
        return OPTION_RUN;
    case OPTION_FLAG:
        break;
    }
    *(int *)entry->value = 1;
    return OPTION_RUN;
}

/* The command line. */

static const struct option_entry *find_entry(const struct option_spec *spec, const char *name,
                                             size_t len) {
    for (size_t i = 0; i < spec->count; i++) {
        const char *known = spec->entries[i].name;
        if (strlen(known) == len && memcmp(known, name, len) == 0) {
            return &spec->entries[i];
        }
    }
    return NULL;
}

/* argv[*at] begins with a dash; *at moves on over a value that is an argument of its own. */
static enum option_outcome parse_option(const struct option_spec *spec, int argc, char **argv,
                                        int *at) {
    const char *argument = argv[*at];
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
        print_usage(spec);
        return OPTION_HELP_SHOWN;
    }
    if (argument[1] != '-') {
        return wrong(argv[0], "unknown option '%s'", argument);
    }
    const char *name = argument + 2;
    size_t len = strcspn(name, "=");
    const struct option_entry *entry = find_entry(spec, name, len);
    if (entry == NULL) {
        return wrong(argv[0], "unknown option '--%.*s'", (int)len, name);
    }
    int has_value = name[len] == '=';
    if (entry->kind == OPTION_FLAG) {
        return has_value ? wrong(argv[0], "option --%s takes no value", entry->name)
                         : set_value(argv[0], entry, NULL);
    }
    if (has_value) {
        return set_value(argv[0], entry, name + len + 1);
    }
    if (*at + 1 == argc) {
        return wrong(argv[0], "option --%s needs a value", entry->name);
    }
    (*at)++;
    return set_value(argv[0], entry, argv[*at]);
}

enum option_outcome option_parse(const struct option_spec *spec, int argc, char **argv,
                                 const char **positionals, int *positional_count) {
    int count = 0;
    int options_ended = 0;
    for (int at = 1; at < argc; at++) {
        const char *argument = argv[at];
        if (!options_ended && strcmp(argument, "--") == 0) {
            options_ended = 1;
        } else if (!options_ended && argument[0] == '-' && argument[1] != '\0') {
            enum option_outcome outcome = parse_option(spec, argc, argv, &at);
            if (outcome != OPTION_RUN) {
                return outcome;
            }
        } else if (count == spec->positional_max) {
            return wrong(argv[0], "unexpected argument '%s'", argument);
        } else {
            positionals[count++] = argument;
        }
    }
    if (positional_count != NULL) {
        *positional_count = count;
    }
    return OPTION_RUN;
}

enum option_outcome option_missing(const char *subcommand, const char *name) {
    return wrong(subcommand, "option --%s is required", name);
}
