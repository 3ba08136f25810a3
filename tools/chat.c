#include "tools/chat_line.h"
#include "tools/chat_turn.h"
#include "tools/option.h"
#include "tools/subcommand.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { ID_BYTES = 12 };

struct chat {
    const char *url_text;
    const char *system;
    struct http_client_url url;
    struct chat_turn_settings settings;
    struct chat_line *line;
    sigset_t interrupt; /* SIGINT alone */
    long long turn;     /* the last committed one that is known */
    int has_failed;
    char id[sizeof "chat-" + 2 * ID_BYTES];
};

static enum err make_id(struct chat *chat) {
    uint8_t bytes[ID_BYTES];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return err_fail(ERR_IO, "no random bytes for the conversation's id");
    }
    size_t at = (size_t)snprintf(chat->id, sizeof chat->id, "chat-");
    for (size_t i = 0; i < ID_BYTES; i++) {
        at += (size_t)snprintf(chat->id + at, sizeof chat->id - at, "%02x", bytes[i]);
    }
    chat->settings.conversation_id = chat->id;
    return ERR_OK;
}

/* While an answer comes, the interrupt key is a file that becomes readable. */
static enum err run_turn(struct chat *chat, const struct chat_turn *turn,
                         struct chat_turn_outcome *outcome) {
    sigset_t before;
    struct signalfd_siginfo received;
    sigprocmask(SIG_BLOCK, &chat->interrupt, &before);
    enum err err = chat_turn_run(&chat->settings, turn, outcome);
    while (read(chat->settings.cancel_fd, &received, sizeof received) > 0) {
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return err;
}

/* Somebody else went on with the conversation, or an answer was committed that did not arrive. */
static enum err ask_to_go_on(struct chat *chat, const struct chat_turn_outcome *outcome,
                             int *goes_on) {
    char question[160];
    const char *reply;
    fprintf(stderr, "tern chat: %s\n", err_message());
    snprintf(question, sizeof question, "go on from turn %lld? [y/n] ", outcome->committed_turn);
    if (!chat_line_is_terminal(chat->line)) {
        printf("%s\n", question);
        fflush(stdout);
    }
    TRY(chat_line_read(chat->line, question, &reply));
    *goes_on = reply != NULL && (reply[0] == 'y' || reply[0] == 'Y');
    return ERR_OK;
}

/* A refusal is told and the talk goes on; what is returned ends it. */
static enum err say(struct chat *chat, const char *message) {
    CLEANUP(object_free) char *copy = strdup(message); /* the next line read replaces it */
    if (copy == NULL) {
        return err_fail(ERR_NOMEM, "message");
    }
    struct chat_turn turn = {.system = chat->system, .message = copy, .expected_turn = chat->turn};
    struct chat_turn_outcome outcome;
    enum err err;
    while ((err = run_turn(chat, &turn, &outcome)) == ERR_CONFLICT) {
        int goes_on = 0;
        TRY(ask_to_go_on(chat, &outcome, &goes_on));
        if (!goes_on) {
            chat->has_failed = 1;
            return ERR_OK;
        }
        turn.expected_turn = outcome.committed_turn;
        chat->turn = outcome.committed_turn;
    }
    if (err == ERR_CANCELLED) {
        printf("[cancelled]\n");
        fflush(stdout);
    } else if (err != ERR_OK) {
        fprintf(stderr, "tern chat: %s\n", err_message());
        chat->has_failed = 1;
    }
    if (outcome.is_answered) {
        chat->turn = outcome.turn;
        chat->system = NULL;
    }
    return ERR_OK;
}

static enum err talk(struct chat *chat) {
    const char *text;
    for (;;) {
        TRY(chat_line_read(chat->line, "> ", &text));
        if (text == NULL) {
            if (chat_line_is_terminal(chat->line)) {
                putchar('\n');
            }
            return ERR_OK;
        }
        if (strspn(text, " \t") < strlen(text)) {
            TRY(say(chat, text));
        }
    }
}

static enum err run_chat(struct chat *chat) {
    TRY(http_client_parse_url(chat->url_text, &chat->url));
    chat->settings.url = &chat->url;
    if (chat->settings.conversation_id == NULL) {
        TRY(make_id(chat));
    }
    sigemptyset(&chat->interrupt);
    sigaddset(&chat->interrupt, SIGINT);
    chat->settings.cancel_fd = signalfd(-1, &chat->interrupt, SFD_NONBLOCK | SFD_CLOEXEC);
    if (chat->settings.cancel_fd < 0) {
        return err_fail(ERR_IO, "signalfd cannot be made");
    }
    chat->settings.is_terminal_shown = isatty(STDOUT_FILENO);
    enum err err = chat_line_create(&chat->line);
    if (err == ERR_OK) {
        printf("conversation %s\n", chat->settings.conversation_id);
        fflush(stdout);
        err = talk(chat);
    }
    chat_line_destroy(chat->line);
    close(chat->settings.cancel_fd);
    return err;
}

static enum option_outcome parse(struct chat *chat, int argc, char **argv) {
    struct chat_turn_settings *settings = &chat->settings;
    const struct option_entry entries[] = {
        {.name = "url",
         .kind = OPTION_TEXT,
         .value = &chat->url_text,
         .argument = "URL",
         .help = "the server (default http://127.0.0.1:8080)"},
        {.name = "conversation",
         .kind = OPTION_TEXT,
         .value = &settings->conversation_id,
         .argument = "ID",
         .help = "go on with this conversation, or begin it (default: a new one)"},
        {.name = "salt",
         .kind = OPTION_TEXT,
         .value = &settings->salt,
         .argument = "SALT",
         .help = "its cache_salt"},
        {.name = "system",
         .kind = OPTION_TEXT,
         .value = &chat->system,
         .argument = "TEXT",
         .help = "a system message in front of the first message"},
        {.name = "temperature",
         .kind = OPTION_NUMBER,
         .value = &settings->temperature,
         .argument = "T",
         .help = "0 for the likeliest token each time (default: the server's)",
         .min = 0,
         .max = 100},
        {.name = "max-tokens",
         .kind = OPTION_INT,
         .value = &settings->max_tokens,
         .argument = "N",
         .help = "at most so many tokens an answer (default: the server's)",
         .min = 1,
         .max = 1e9},
        {.name = "api-key",
         .kind = OPTION_TEXT,
         .value = &settings->api_key,
         .argument = "KEY",
         .help = "the key that the server asks for"},
    };
    const struct option_spec spec = {
        .usage = "tern chat [--url URL] [--conversation ID] [options]",
        .summary =
            "Talks with a server in the terminal. Each line is a message, and only it is sent:\n"
            "the server keeps the conversation. Behind each answer stands what was reused and\n"
            "from where, what was run, and how fast.\n\n"
            "The interrupt key (Ctrl-C) cancels an answer, and at the prompt leaves; so does\n"
            "Ctrl-D. Without a terminal, lines are read from standard input, and the exit code\n"
            "says whether all were answered.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    return option_parse(&spec, argc, argv, NULL, NULL);
}

int subcommand_chat(int argc, char **argv) {
    struct chat chat = {.url_text = "http://127.0.0.1:8080",
                        .turn = CHAT_TURN_UNKNOWN,
                        .settings = {.temperature = -1, .cancel_fd = -1}};
    enum option_outcome outcome = parse(&chat, argc, argv);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    setlocale(LC_CTYPE, "");
    if (run_chat(&chat) != ERR_OK) {
        fprintf(stderr, "tern chat: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return chat.has_failed ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}
