#include "server/config.h"

#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 4096, USAGE_COLUMN = 34 };

#define KIB (1024ull)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

struct flag {
    const char *name;
    const char *argument;
    const char *initial; /* the default, as it would be written; NULL: none */
    const char *help;
    enum err (*read)(struct config *config, const struct flag *flag, const char *value);
    size_t offset;
    uint64_t min;
    uint64_t max;
};

/* --- values ------------------------------------------------------------------------------- */

static enum err wrong(const struct flag *flag, const char *value, const char *expected) {
    return err_fail(ERR_INVALID, "--%s: '%.100s' is not %s", flag->name, value, expected);
}

static void *place(struct config *config, const struct flag *flag) {
    return (char *)config + flag->offset;
}

static enum err read_text(struct config *config, const struct flag *flag, const char *value) {
    char **text = place(config, flag);
    if (value[0] == '\0') {
        return wrong(flag, value, "a text that is not empty");
    }
    char *copy = strdup(value);
    if (copy == NULL) {
        return err_fail(ERR_NOMEM, "--%s", flag->name);
    }
    free(*text);
    *text = copy;
    return ERR_OK;
}

static int parse_whole(const char *text, uint64_t *out, const char **end) {
    char *stop;
    errno = 0;
    if (!isdigit((unsigned char)text[0])) {
        return 0;
    }
    *out = strtoull(text, &stop, 10);
    *end = stop;
    return errno == 0;
}

static enum err read_int(struct config *config, const struct flag *flag, const char *value) {
    const char *end;
    uint64_t number;
    if (!parse_whole(value, &number, &end) || *end != '\0' || number < flag->min ||
        number > flag->max) {
        return err_fail(ERR_INVALID, "--%s: '%.100s' is not a whole number from %llu to %llu",
                        flag->name, value, (unsigned long long)flag->min,
                        (unsigned long long)flag->max);
    }
    *(int *)place(config, flag) = (int)number;
    return ERR_OK;
}

/* 4096, 64K, 512M, 2G, 1T. */
static int parse_bytes(const char *text, uint64_t *out) {
    static const char units[] = "KMGT";
    const char *end;
    uint64_t number;
    if (!parse_whole(text, &number, &end)) {
        return 0;
    }
    if (*end != '\0') {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        unsigned shift = unit != NULL ? 10u * (unsigned)(unit - units + 1) : 0;
        if (unit == NULL || end[1] != '\0' || number > UINT64_MAX >> shift) {
            return 0;
        }
        number <<= shift;
    }
    *out = number;
    return 1;
}

static enum err read_bytes(struct config *config, const struct flag *flag, const char *value) {
    uint64_t number;
    if (!parse_bytes(value, &number) || number < flag->min || number > flag->max) {
        return err_fail(
            ERR_INVALID, "--%s: '%.100s' is not a size such as 512M, from %llu to %llu bytes",
            flag->name, value, (unsigned long long)flag->min, (unsigned long long)flag->max);
    }
    *(uint64_t *)place(config, flag) = number;
    return ERR_OK;
}

static enum err read_block_size(struct config *config, const struct flag *flag, const char *value) {
    TRY(read_int(config, flag, value));
    int size = config->block_size;
    if ((size & (size - 1)) != 0) {
        return wrong(flag, value, "a power of two");
    }
    return ERR_OK;
}

static enum err read_kv(struct config *config, const struct flag *flag, const char *value) {
    static const char *const names[] = {"f16", "bf16", "f32"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(names[i], value) == 0) {
            config->kv = (enum config_kv)i;
            return ERR_OK;
        }
    }
    return wrong(flag, value, "f16, bf16 or f32");
}

static enum err read_spill(struct config *config, const struct flag *flag, const char *value) {
    static const char idle[] = "idle:";
    const char *end;
    uint64_t seconds;
    if (strcmp(value, "eager") == 0) {
        config->spill = CONFIG_SPILL_EAGER;
    } else if (strcmp(value, "evict") == 0) {
        config->spill = CONFIG_SPILL_EVICT;
    } else if (strncmp(value, idle, sizeof idle - 1) == 0 &&
               parse_whole(value + sizeof idle - 1, &seconds, &end) && *end == '\0' &&
               seconds >= 1 && seconds <= 86400) {
        config->spill = CONFIG_SPILL_IDLE;
        config->spill_idle_seconds = (int)seconds;
    } else {
        return wrong(flag, value, "eager, idle:SECONDS (1 to 86400) or evict");
    }
    return ERR_OK;
}

/* "SECONDS" or "SECONDS,SIZE". */
static enum err read_spill_lag(struct config *config, const struct flag *flag, const char *value) {
    char *end;
    uint64_t bytes = config->spill_lag_bytes;
    errno = 0;
    double seconds = strtod(value, &end);
    int is_valid = isdigit((unsigned char)value[0]) && end != value && errno == 0 &&
                   seconds >= 0.001 && seconds <= 3600;
    if (is_valid && *end == ',') {
        is_valid = parse_bytes(end + 1, &bytes) && bytes >= MIB && bytes <= TIB;
    } else if (is_valid) {
        is_valid = *end == '\0';
    }
    if (!is_valid) {
        return wrong(flag, value,
                     "SECONDS (0.001 to 3600) or SECONDS,SIZE (1M to 1T), such as 1,256M");
    }
    config->spill_lag_ms = (int)(seconds * 1000);
    config->spill_lag_bytes = bytes;
    return ERR_OK;
}

static enum err read_log_level(struct config *config, const struct flag *flag, const char *value) {
    enum log_level level;
    if (!log_level_parse(value, &level)) {
        return wrong(flag, value, "debug, info, warn, error or off");
    }
    config->log_level = (int)level;
    return ERR_OK;
}

/* --- the flags ---------------------------------------------------------------------------- */

#define AT(member) offsetof(struct config, member)

static const struct flag flags[] = {
    {"model", "FILE", NULL, "model file (GGUF); without it the demo model answers", read_text,
     AT(model), 0, 0},
    {"store", "DIR", "tern-store", "directory of ledger and state; made if it is missing",
     read_text, AT(store), 0, 0},
    {"host", "ADDRESS", "127.0.0.1", "address to listen on", read_text, AT(host), 0, 0},
    {"port", "N", "8080", "port to listen on; 0: any that is free", read_int, AT(port), 0, 65535},
    {"api-keys", "FILE", NULL, "lines 'KEY TENANT'; without it everybody may use the server",
     read_text, AT(api_keys), 0, 0},
    {"context", "TOKENS", "0", "tokens of a conversation at most; 0: what the model was made for",
     read_int, AT(context), 0, 1 << 24},
    {"block-size", "TOKENS", "32", "tokens in a KV block, a power of two", read_block_size,
     AT(block_size), 1, 1024},
    {"kv", "TYPE", "f16", "type of keys and values: f16, bf16 or f32", read_kv, AT(kv), 0, 0},
    {"device-memory", "SIZE", "0",
     "cap of device memory, weights too; 0: what the model needs, and 1G for KV blocks and states",
     read_bytes, AT(device_memory_bytes), 0, 1024 * TIB},
    {"host-memory", "SIZE", "1G", "cap of the host tier", read_bytes, AT(host_memory_bytes), 0,
     1024 * TIB},
    {"disk", "SIZE", "16G", "cap of all bytes in the store directory", read_bytes, AT(disk_bytes),
     MIB, 1024 * TIB},
    {"ledger-reserve", "SIZE", "64M", "part of --disk that is allocated for the ledger ahead",
     read_bytes, AT(ledger_reserve_bytes), MIB, TIB},
    {"spill", "WHEN", "eager", "when state goes to disk: eager, idle:SECONDS or evict", read_spill,
     0, 0, 0},
    {"spill-lag", "SECONDS,SIZE", "1,256M", "how far state on disk may lag the ledger",
     read_spill_lag, 0, 0, 0},
    {"backend", "NAME", "host", "what computes", read_text, AT(backend), 0, 0},
    {"threads", "N", "0", "threads that compute; 0: all processors", read_int, AT(threads), 0, 256},
    {"running-max", "N", "16", "requests that compute at once", read_int, AT(running_max), 1, 4096},
    {"queue-max", "N", "64", "requests that wait; one more is answered with 429", read_int,
     AT(queue_max), 1, 65536},
    {"front-threads", "N", "4", "threads for JSON, templates and look-ups", read_int,
     AT(front_threads), 1, 256},
    {"connections-max", "N", "1024", "open connections", read_int, AT(connections_max), 1, 65536},
    {"body-max", "SIZE", "16M", "bytes of a request body at most", read_bytes, AT(body_max_bytes),
     KIB, GIB},
    {"drain-seconds", "N", "30", "what running turns get to finish at the end", read_int,
     AT(drain_seconds), 0, 86400},
    {"log-level", "LEVEL", "info", "debug, info, warn, error or off", read_log_level, 0, 0, 0},
};

void config_print_usage(FILE *out) {
    fprintf(out, "usage: tern serve [options]\n\n"
                 "Serves chat completions and keeps the state of conversations.\n\noptions:\n");
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s %s", flags[i].name, flags[i].argument);
        fprintf(out, "  %-*s %s", USAGE_COLUMN, left, flags[i].help);
        if (flags[i].initial != NULL) {
            fprintf(out, " (%s)", flags[i].initial);
        }
        fputc('\n', out);
    }
    fprintf(out, "  %-*s %s\n", USAGE_COLUMN, "--config FILE",
            "the same names as lines 'name = value'; the command line wins");
    fprintf(out, "  %-*s %s\n", USAGE_COLUMN, "--help", "show this text");
}

static const struct flag *find_flag(const char *name, size_t len) {
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        if (strlen(flags[i].name) == len && memcmp(flags[i].name, name, len) == 0) {
            return &flags[i];
        }
    }
    return NULL;
}

enum err config_init(struct config *config) {
    memset(config, 0, sizeof *config);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        enum err code =
            flags[i].initial == NULL ? ERR_OK : flags[i].read(config, &flags[i], flags[i].initial);
        if (code != ERR_OK) {
            config_done(config);
            return code;
        }
    }
    return ERR_OK;
}

void config_done(struct config *config) {
    free(config->model);
    free(config->store);
    free(config->host);
    free(config->backend);
    free(config->api_keys);
    memset(config, 0, sizeof *config);
}

/* --- the file ----------------------------------------------------------------------------- */

/* Cuts white space off both ends. */
static char *trim(char *text) {
    while (isspace((unsigned char)*text)) {
        text++;
    }
    size_t len = strlen(text);
    while (len > 0 && isspace((unsigned char)text[len - 1])) {
        text[--len] = '\0';
    }
    return text;
}

static enum err read_line(struct config *config, char *line) {
    char *name = trim(line);
    if (name[0] == '\0' || name[0] == '#') {
        return ERR_OK;
    }
    char *equals = strchr(name, '=');
    if (equals == NULL) {
        return err_fail(ERR_INVALID, "'%.100s' is not 'name = value'", name);
    }
    *equals = '\0';
    name = trim(name);
    const struct flag *flag = find_flag(name, strlen(name));
    if (flag == NULL) {
        return err_fail(ERR_INVALID, "there is no setting '%.100s'", name);
    }
    return flag->read(config, flag, trim(equals + 1));
}

static enum err read_file(struct config *config, const char *path) {
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return err_fail(ERR_INVALID, "--config %s: %s", path, strerror(errno));
    }
    char line[LINE_MAX_BYTES];
    enum err code = ERR_OK;
    for (int number = 1; code == ERR_OK && fgets(line, sizeof line, file) != NULL; number++) {
        if (strlen(line) == sizeof line - 1) {
            code = err_fail(ERR_INVALID, "the line is too long");
        } else {
            code = read_line(config, line);
        }
        if (code != ERR_OK) {
            code = err_context(code, "--config %s, line %d", path, number);
        }
    }
    if (code == ERR_OK && ferror(file)) {
        code = err_fail(ERR_INVALID, "--config %s: %s", path, strerror(errno));
    }
    fclose(file);
    return code;
}

/* --- the command line ------------------------------------------------------------------------ */

struct argument {
    const char *name; /* without dashes */
    size_t name_len;
    const char *value; /* NULL: there is none */
};

/* Reads the argument at *index, which moves behind its value. */
static enum err next_argument(int argc, char **argv, int *index, struct argument *out) {
    const char *text = argv[(*index)++];
    if (strncmp(text, "--", 2) != 0 || text[2] == '\0') {
        return err_fail(ERR_INVALID, "'%.100s' is no option", text);
    }
    const char *equals = strchr(text, '=');
    out->name = text + 2;
    out->name_len = equals != NULL ? (size_t)(equals - text - 2) : strlen(text + 2);
    out->value = equals != NULL ? equals + 1 : NULL;
    int is_help = out->name_len == 4 && memcmp(out->name, "help", 4) == 0;
    if (out->value == NULL && !is_help && *index < argc) {
        out->value = argv[(*index)++];
    }
    return ERR_OK;
}

static int is_named(const struct argument *argument, const char *name) {
    return strlen(name) == argument->name_len &&
           memcmp(argument->name, name, argument->name_len) == 0;
}

/* Twice through: the file that is named lies below everything else on the line. */
static enum err walk(struct config *config, int argc, char **argv, int is_for_file) {
    for (int i = 1; i < argc;) {
        struct argument argument;
        TRY(next_argument(argc, argv, &i, &argument));
        const struct flag *flag = find_flag(argument.name, argument.name_len);
        if (is_named(&argument, "help")) {
            config->wants_help = 1;
            return ERR_OK;
        }
        int is_config = is_named(&argument, "config");
        if (flag == NULL && !is_config) {
            return err_fail(ERR_INVALID, "unknown option --%.*s", (int)argument.name_len,
                            argument.name);
        }
        if (argument.value == NULL) {
            return err_fail(ERR_INVALID, "--%.*s needs a value", (int)argument.name_len,
                            argument.name);
        }
        if (is_config && is_for_file) {
            TRY(read_file(config, argument.value));
        } else if (!is_config && !is_for_file) {
            TRY(flag->read(config, flag, argument.value));
        }
    }
    return ERR_OK;
}

enum err config_parse(struct config *config, int argc, char **argv) {
    TRY(walk(config, argc, argv, 1));
    if (config->wants_help) {
        return ERR_OK;
    }
    TRY(walk(config, argc, argv, 0));
    if (config->ledger_reserve_bytes > config->disk_bytes) {
        return err_fail(ERR_INVALID, "--ledger-reserve: larger than --disk, of which it is a part");
    }
    return ERR_OK;
}
