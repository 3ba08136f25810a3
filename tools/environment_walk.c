#include "tools/environment_walk.h"

#include "ledger/ledger.h"
#include "store/state_walk.h"
#include "tools/subcommand.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

enum { CONVERSATIONS_AT_ONCE = 64 };

extern char **environ;

/* --- the parent ---------------------------------------------------------------------------- */

enum err environment_walk_run(void *context, const char *environment_dir, int is_ledger) {
    char *arguments[] = {"tern", "walk", is_ledger ? "ledger" : "state",
                         (char *)(uintptr_t)environment_dir, NULL};
    pid_t child = 0;
    int status = 0;
    (void)context;
    int failure = posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ);
    if (failure != 0) {
        return err_fail(ERR_IO, "cannot start the walk over '%s': %s", environment_dir,
                        strerror(failure));
    }
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return err_fail(ERR_IO, "cannot wait for the walk: %s", strerror(errno));
        }
    }
    if (WIFSIGNALED(status)) {
        return err_fail(ERR_CORRUPT, "reading '%s' ended with signal %d", environment_dir,
                        WTERMSIG(status));
    }
    if (WEXITSTATUS(status) != EXIT_CODE_OK) {
        return err_fail(ERR_CORRUPT, "'%s' cannot be read", environment_dir);
    }
    return ERR_OK;
}

/* --- the child ------------------------------------------------------------------------------- */

/* Damaged records are found again when they are asked for; here only reading counts. */
static enum err read_conversation(struct ledger *ledger,
                                  const struct conversation_record *conversation) {
    for (uint32_t turn = 1; turn <= conversation->turn; turn++) {
        struct turn_record record = {0};
        enum err code =
            ledger_turn_read(ledger, &conversation->key, conversation->serial, turn, &record);
        turn_record_done(&record);
        if (code == ERR_IO) {
            return code;
        }
    }
    return ERR_OK;
}

static enum err walk_conversations(struct ledger *ledger) {
    struct conversation_record page[CONVERSATIONS_AT_ONCE];
    struct conversation_key after;
    size_t count = CONVERSATIONS_AT_ONCE;
    enum err code = ERR_OK;
    for (int is_first = 1; code == ERR_OK && count == CONVERSATIONS_AT_ONCE; is_first = 0) {
        TRY(ledger_conversations_list(ledger, is_first ? NULL : &after, CONVERSATIONS_AT_ONCE, page,
                                      &count, NULL));
        for (size_t i = 0; i < count; i++) {
            if (code == ERR_OK) {
                code = read_conversation(ledger, &page[i]);
            }
            after = page[i].key;
            turn_record_conversation_done(&page[i]);
        }
    }
    return code;
}

static enum err walk_ledger(const char *directory) {
    struct ledger *ledger = NULL;
    TRY(ledger_open(&(struct ledger_config){.directory = directory, .is_read_only = 1}, &ledger));
    enum err code = walk_conversations(ledger);
    ledger_close(ledger);
    return code;
}

int subcommand_walk(int argc, char **argv) {
    enum err code = ERR_OK;
    if (argc == 3 && strcmp(argv[1], "ledger") == 0) {
        code = walk_ledger(argv[2]);
    } else if (argc == 3 && strcmp(argv[1], "state") == 0) {
        struct state_walk_report report;
        code = state_walk_dir(argv[2], &report);
    } else {
        fprintf(stderr, "usage: tern walk ledger|state DIR\n");
        return EXIT_CODE_USAGE;
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        fprintf(stderr, "tern walk: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
