#include "base/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RULES_MAX = 8, NAME_BYTES = 64 };

enum rule_kind { RULE_KILL, RULE_FAIL, RULE_LOG };

struct rule {
    enum rule_kind kind;
    char name[NAME_BYTES]; /* without the '*' */
    int is_prefix;
    uint64_t nth;
    int is_lasting; /* the Nth and all later passes */
    uint64_t passes;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t environment_read = PTHREAD_ONCE_INIT;
static struct rule rules[RULES_MAX];
static size_t rule_count;
static uint64_t fired;

static enum err parse_rule(const char *text, size_t len, struct rule *rule) {
    char copy[NAME_BYTES + 32];
    if (len >= sizeof copy) {
        return err_fail(ERR_INVALID, "fault rule '%.*s' is too long", (int)len, text);
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    *rule = (struct rule){.kind = RULE_LOG, .is_prefix = 1};
    if (strcmp(copy, "log") == 0) {
        return ERR_OK;
    }
    char *name = strchr(copy, ':');
    char *count = name != NULL ? strchr(name + 1, ':') : NULL;
    if (count == NULL || count - name - 1 >= NAME_BYTES) {
        return err_fail(ERR_INVALID, "fault rule '%s' is not log or KIND:NAME:N", copy);
    }
    *name++ = '\0';
    *count++ = '\0';
    if (strcmp(copy, "kill") != 0 && strcmp(copy, "fail") != 0) {
        return err_fail(ERR_INVALID, "fault rule of the unknown kind '%s'", copy);
    }
    rule->kind = strcmp(copy, "kill") == 0 ? RULE_KILL : RULE_FAIL;
    char *end;
    rule->nth = strtoull(count, &end, 10);
    rule->is_lasting = *end == '+';
    if (rule->nth == 0 || end[rule->is_lasting] != '\0') {
        return err_fail(ERR_INVALID, "fault rule of '%s' has the count '%s'", name, count);
    }
    size_t name_len = strlen(name);
    rule->is_prefix = name_len > 0 && name[name_len - 1] == '*';
    memcpy(rule->name, name, name_len - (size_t)rule->is_prefix);
    return ERR_OK;
}

static enum err parse_rules(const char *spec) {
    rule_count = 0;
    fired = 0;
    while (*spec != '\0') {
        size_t len = strcspn(spec, ",");
        enum err code = rule_count < RULES_MAX
                            ? parse_rule(spec, len, &rules[rule_count])
                            : err_fail(ERR_INVALID, "more than %d fault rules", RULES_MAX);
        if (code != ERR_OK) {
            rule_count = 0;
            return code;
        }
        rule_count++;
        spec += len + (spec[len] == ',');
    }
    return ERR_OK;
}

static void read_environment(void) {
    const char *spec = getenv("TERN_FAULT");
    if (spec != NULL && parse_rules(spec) != ERR_OK) {
        fprintf(stderr, "TERN_FAULT: %s\n", err_message());
        abort(); /* a campaign with a misspelt rule would test nothing and pass */
    }
}

static int names(const struct rule *rule, const char *name) {
    return rule->is_prefix ? strncmp(rule->name, name, strlen(rule->name)) == 0
                           : strcmp(rule->name, name) == 0;
}

/* Counts one pass of NAME; true when a rule of KIND picks it. */
static int pass(enum rule_kind kind, const char *name) {
    pthread_once(&environment_read, read_environment);
    int is_picked = 0;
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (rule->kind == RULE_LOG) {
            fprintf(stderr, "fault: pass %s %s\n", kind == RULE_KILL ? "kill" : "fail", name);
        } else if (rule->kind == kind && names(rule, name)) {
            rule->passes++;
            is_picked |=
                rule->passes == rule->nth || (rule->is_lasting && rule->passes > rule->nth);
        }
    }
    fired += (uint64_t)is_picked;
    pthread_mutex_unlock(&mutex);
    return is_picked;
}

int fault_fails(const char *name) {
    return pass(RULE_FAIL, name);
}

void fault_kill_point(const char *name) {
    if (pass(RULE_KILL, name)) {
        kill(getpid(), SIGKILL);
    }
}

enum err fault_arm(const char *spec) {
    pthread_once(&environment_read, read_environment);
    pthread_mutex_lock(&mutex);
    enum err code = parse_rules(spec);
    pthread_mutex_unlock(&mutex);
    return code;
}

void fault_disarm(void) {
    pthread_once(&environment_read, read_environment);
    pthread_mutex_lock(&mutex);
    rule_count = 0;
    pthread_mutex_unlock(&mutex);
}

uint64_t fault_fired(void) {
    pthread_mutex_lock(&mutex);
    uint64_t count = fired;
    pthread_mutex_unlock(&mutex);
    return count;
}

uint64_t fault_passes(void) {
    uint64_t count = 0;
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < rule_count; i++) {
        count += rules[i].passes;
    }
    pthread_mutex_unlock(&mutex);
    return count;
}
