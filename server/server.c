/*
 * State    | left by
 * SERVING  | a wake-up (DRAINING)
 * DRAINING | the last exchange's end (STOPPED); drain_seconds are over (CANCELLED); a second
 *          | wake-up (STOPPED)
 * CANCELLED| the last exchange's end, or GRACE_MS (STOPPED)
 *
 * I1: what is submitted to the service is submitted by front threads, and these are joined
 *     before server_run returns.
 */
#include "server/server.h"

#include "base/log.h"
#include "base/now.h"
#include "server/routes.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    TICK_MS = 20,    /* while draining */
    GRACE_MS = 5000, /* for answers of cancelled turns to leave */
    STATUS_QUEUE_MAX = 64,
};

enum state { SERVING, DRAINING, CANCELLED, STOPPED };

struct server {
    struct server_params params;
    struct event_base *base;
    struct api_keys *keys;
    struct front *front;
    struct front *status_front;
    struct routes *routes;
    struct http *http;
    struct event *wake_event;
    struct event *tick_event;
    struct event *signal_events[2];
    int wake_fd; /* an eventfd: counts calls of server_drain */
    enum state state;
    int is_cut_off;    /* turns were, when drain_seconds were over */
    int is_stopped;    /* at once, by a second wish to end */
    uint64_t since_ms; /* in this state */
};

/* --- draining --------------------------------------------------------------------------- */

static void enter(struct server *server, enum state state) {
    server->state = state;
    server->since_ms = now_monotonic_ms();
    if (state == STOPPED) {
        event_base_loopbreak(server->base);
    }
}

/* One more wish to end. */
static void advance(struct server *server) {
    if (server->state != SERVING) {
        server->is_stopped = 1;
        enter(server, STOPPED);
        return;
    }
    struct timeval tick = {.tv_usec = TICK_MS * 1000};
    log_info("draining: %d requests are running", http_busy_count(server->http));
    enter(server, DRAINING);
    routes_drain(server->routes);
    http_drain(server->http);
    event_add(server->tick_event, &tick);
}

static void on_wake(evutil_socket_t fd, short what, void *context) {
    (void)what;
    struct server *server = context;
    uint64_t count = 0;
    if (read(fd, &count, sizeof count) == (ssize_t)sizeof count) {
        for (uint64_t i = 0; i < count && i < 2; i++) {
            advance(server);
        }
    }
}

static void on_signal(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    advance(context);
}

static void on_tick(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct server *server = context;
    uint64_t waited_ms = now_monotonic_ms() - server->since_ms;
    if (http_busy_count(server->http) == 0) {
        enter(server, STOPPED);
    } else if (server->state == DRAINING &&
               waited_ms >= (uint64_t)server->params.drain_seconds * 1000) {
        log_warn("drain time is over: %d requests are cancelled", http_busy_count(server->http));
        server->is_cut_off = 1;
        http_stop_all(server->http);
        enter(server, CANCELLED);
    } else if (server->state == CANCELLED && waited_ms >= GRACE_MS) {
        enter(server, STOPPED);
    }
}

void server_drain(struct server *server) {
    uint64_t one = 1;
    ssize_t written = write(server->wake_fd, &one, sizeof one);
    (void)written;
}

/* --- life ------------------------------------------------------------------------------- */

static enum err open_loop(struct server *server) {
    struct event_config *config = event_config_new();
    if (config != NULL) {
        event_config_require_features(config, EV_FEATURE_ET | EV_FEATURE_EARLY_CLOSE);
        event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
        server->base = event_base_new_with_config(config);
        event_config_free(config);
    }
    if (server->base == NULL) {
        return err_fail(ERR_UNSUPPORTED, "libevent has no edge-triggered loop here (epoll)");
    }
    server->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (server->wake_fd < 0) {
        return err_fail(ERR_IO, "eventfd: %s", strerror(errno));
    }
    server->wake_event =
        event_new(server->base, server->wake_fd, EV_READ | EV_PERSIST, on_wake, server);
    server->tick_event = event_new(server->base, -1, EV_PERSIST, on_tick, server);
    if (server->wake_event == NULL || server->tick_event == NULL ||
        event_add(server->wake_event, NULL) != 0) {
        return err_fail(ERR_NOMEM, "the server's events");
    }
    static const int signals[] = {SIGTERM, SIGINT};
    for (size_t i = 0; server->params.handles_signals && i < ARRAY_LEN(signals); i++) {
        server->signal_events[i] = evsignal_new(server->base, signals[i], on_signal, server);
        if (server->signal_events[i] == NULL || event_add(server->signal_events[i], NULL) != 0) {
            return err_fail(ERR_NOMEM, "the server's signals");
        }
    }
    return ERR_OK;
}

static enum err open_parts(struct server *server, struct turn_service *service,
                           const struct server_callbacks *callbacks) {
    const struct server_params *params = &server->params;
    TRY(open_loop(server));
    if (params->api_keys_path != NULL) {
        TRY(api_keys_load(params->api_keys_path, &server->keys));
    }
    TRY(front_create(params->front_threads, params->queue_max, &server->front));
    TRY(front_create(1, STATUS_QUEUE_MAX, &server->status_front));
    struct routes_params routes = {.service = service,
                                   .front = server->front,
                                   .status_front = server->status_front,
                                   .keys = server->keys,
                                   .model = params->model,
                                   .context = params->context,
                                   .text_max = params->limits.output_max,
                                   .snapshot = callbacks->snapshot,
                                   .snapshot_context = callbacks->context};
    TRY(routes_create(&routes, &server->routes));
    struct http_handler handler = routes_handler(server->routes);
    TRY(http_create(server->base, params->host, params->port, &params->limits, &handler,
                    &server->http));
    routes_set_http(server->routes, server->http);
    return ERR_OK;
}

enum err server_create(const struct server_params *params, struct turn_service *service,
                       const struct server_callbacks *callbacks, struct server **out) {
    if (sodium_init() < 0) {
        return err_fail(ERR_IO, "libsodium found no source of random numbers");
    }
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return err_fail(ERR_NOMEM, "server");
    }
    server->params = *params;
    server->wake_fd = -1;
    enum err code = open_parts(server, service, callbacks);
    if (code != ERR_OK) {
        server_destroy(server);
        return code;
    }
    *out = server;
    return ERR_OK;
}

static void end_fronts(struct server *server) {
    front_destroy(server->front);
    front_destroy(server->status_front);
    server->front = NULL;
    server->status_front = NULL;
}

static void free_event(struct event *event) {
    if (event != NULL) {
        event_free(event);
    }
}

void server_destroy(struct server *server) {
    if (server == NULL) {
        return;
    }
    end_fronts(server);
    http_destroy(server->http);
    routes_destroy(server->routes);
    api_keys_destroy(server->keys);
    free_event(server->wake_event);
    free_event(server->tick_event);
    for (size_t i = 0; i < ARRAY_LEN(server->signal_events); i++) {
        free_event(server->signal_events[i]);
    }
    if (server->base != NULL) {
        event_base_free(server->base);
    }
    if (server->wake_fd >= 0) {
        close(server->wake_fd);
    }
    free(server);
}

int server_port(const struct server *server) {
    return http_port(server->http);
}

enum err server_run(struct server *server) {
    if (event_base_dispatch(server->base) < 0) {
        end_fronts(server);
        return err_fail(ERR_IO, "the event loop failed: %s", strerror(errno));
    }
    /* Whoever is still there has gone, as far as its turn is concerned. */
    http_destroy(server->http);
    server->http = NULL;
    routes_set_http(server->routes, NULL);
    end_fronts(server);
    if (server->is_stopped) {
        return err_fail(ERR_CANCELLED, "told twice to stop");
    }
    return server->is_cut_off ? err_fail(ERR_BUSY,
                                         "turns that ran longer than %d seconds were "
                                         "cut off",
                                         server->params.drain_seconds)
                              : ERR_OK;
}
