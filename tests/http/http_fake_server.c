/*
 * The HTTP layer over a turn service that plays scripts (fake_turn.h). Prints "port N" when it
 * listens. Limits that tests need small are options: NAME=NUMBER.
 */
#include "server/server.h"
#include "tests/http/fake_turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct option {
    const char *name;
    int *integer;
    size_t *size;
};

static int read_option(char *text, const struct option *options, size_t count) {
    char *equals = strchr(text, '=');
    if (equals == NULL) {
        return 0;
    }
    *equals = '\0';
    for (size_t i = 0; i < count; i++) {
        if (strcmp(options[i].name, text) == 0) {
            long value = strtol(equals + 1, NULL, 10);
            if (options[i].integer != NULL) {
                *options[i].integer = (int)value;
            } else {
                *options[i].size = (size_t)value;
            }
            return 1;
        }
    }
    return 0;
}

static int read_options(struct server_params *params, int argc, char **argv) {
    struct http_limits *limits = &params->limits;
    const struct option options[] = {
        {"connections_max", &limits->connections_max, NULL},
        {"body_max", NULL, &limits->body_max},
        {"bodies_max", NULL, &limits->bodies_max},
        {"output_max", NULL, &limits->output_max},
        {"head_ms", &limits->head_ms, NULL},
        {"body_ms", &limits->body_ms, NULL},
        {"idle_ms", &limits->idle_ms, NULL},
        {"stall_ms", &limits->stall_ms, NULL},
        {"linger_ms", &limits->linger_ms, NULL},
        {"comment_ms", &limits->comment_ms, NULL},
        {"front_threads", &params->front_threads, NULL},
        {"queue_max", &params->queue_max, NULL},
        {"drain_seconds", &params->drain_seconds, NULL},
    };
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "api_keys=", 9) == 0) {
            params->api_keys_path = argv[i] + 9;
        } else if (!read_option(argv[i], options, sizeof options / sizeof options[0])) {
            fprintf(stderr, "http_fake_server: what is '%s'?\n", argv[i]);
            return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv) {
    struct server_params params = {.host = "127.0.0.1",
                                   .model = "tern-fake",
                                   .context = 4096,
                                   .front_threads = 2,
                                   .queue_max = 64,
                                   .drain_seconds = 30,
                                   .handles_signals = 1,
                                   .limits = http_limits_default()};
    struct turn_service *service = NULL;
    struct server *server = NULL;
    if (!read_options(&params, argc, argv) || fake_turn_create(&service) != ERR_OK) {
        return 2;
    }
    struct server_callbacks callbacks = {.snapshot = fake_turn_snapshot, .context = service};
    if (server_create(&params, service, &callbacks, &server) != ERR_OK) {
        fprintf(stderr, "http_fake_server: %s\n", err_message());
        fake_turn_destroy(service);
        return 1;
    }
    printf("port %d\n", server_port(server));
    fflush(stdout);
    enum err code = server_run(server);
    fake_turn_destroy(service);
    server_destroy(server);
    return code == ERR_OK ? 0 : 3;
}
