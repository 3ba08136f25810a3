#include "server/routes.h"

#include "base/log.h"
#include "base/now.h"
#include "server/api_error.h"
#include "server/chat_completions.h"
#include "server/conversations.h"
#include "server/health.h"
#include "server/json_text.h"

#include <stdlib.h>
#include <string.h>

enum { STATUS_BODY_MAX = 256 << 10, RETRY_MS = 1000, CODE_GONE = 499 };

enum route { UNKNOWN, CHAT, MODELS, MODEL, CONVERSATION, HEALTH, METRICS, ROUTES };

static const char *const route_names[METRICS_ROUTES_MAX] = {
    "unknown", "chat_completions", "models", "model", "conversation", "health", "metrics"};
_Static_assert((int)ROUTES <= (int)METRICS_ROUTES_MAX, "every route is counted");

struct row {
    const char *path;
    int is_prefix; /* the rest of the path names something and is not empty */
    enum route route;
    const char *method;
    const char *allow;
    int is_open;     /* without an API key */
    int needs_turns; /* refused while draining */
};

static const struct row rows[] = {
    {"/v1/chat/completions", 0, CHAT, "POST", "POST", 0, 1},
    {"/v1/models", 0, MODELS, "GET", "GET, HEAD", 0, 0},
    {"/v1/models/", 1, MODEL, "GET", "GET, HEAD", 0, 0},
    {"/v1/conversations/", 1, CONVERSATION, "DELETE", "DELETE", 0, 1},
    {"/health", 0, HEALTH, "GET", "GET, HEAD", 1, 0},
    {"/metrics", 0, METRICS, "GET", "GET, HEAD", 1, 0},
};

struct routes {
    struct routes_params params;
    char *model;
    struct buf model_body;  /* one model's JSON */
    struct buf models_body; /* the list's */
    struct chat_completions chat;
    struct metrics metrics; /* the loop's */
    const struct http *http;
    int is_draining; /* the loop's */
};

/* --- finding the way ---------------------------------------------------------------------- */

static const struct row *find_row(const char *path) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t len = strlen(rows[i].path);
        if (rows[i].is_prefix ? strncmp(path, rows[i].path, len) == 0 && path[len] != '\0'
                              : strcmp(path, rows[i].path) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

/* NULL: not allowed in. */
static const char *tenant_of(const struct routes *routes, const struct http_request *request) {
    if (routes->params.keys == NULL) {
        return "";
    }
    return api_keys_tenant(routes->params.keys, http_request_field(request, "authorization"));
}

/* 1: *error says what to answer. */
static int find_fault(const struct routes *routes, const struct http_request *request,
                      const struct row *row, struct api_error *error) {
    if (row == NULL) {
        api_error_set(error, 404, "unknown_url", NULL, "Invalid URL (%.16s %.128s)",
                      request->method, request->path);
    } else if (!row->is_open && tenant_of(routes, request) == NULL) {
        api_error_set(error, 401, "invalid_api_key", NULL,
                      "Incorrect or missing API key: 'Authorization: Bearer KEY' is expected.");
    } else if (!http_request_is(request, row->method)) {
        api_error_set(error, 405, "method_not_allowed", NULL,
                      "Not allowed to %.16s on %.128s; allowed: %s.", request->method,
                      request->path, row->allow);
        error->allow = row->allow;
    } else if (row->needs_turns && routes->is_draining) {
        api_error_set(error, 503, "server_stopping", NULL,
                      "The server is stopping; try again later.");
        error->retry_after_ms = RETRY_MS;
    } else {
        return 0;
    }
    return 1;
}

static int screen(void *context, struct http_exchange *exchange) {
    const struct routes *routes = context;
    const struct http_request *request = http_exchange_request(exchange);
    const struct row *row = find_row(request->path);
    struct api_error error;
    http_exchange_set_tag(exchange, row != NULL ? (int)row->route : (int)UNKNOWN);
    if (!find_fault(routes, request, row, &error)) {
        return 0;
    }
    api_error_respond(&error, exchange);
    return 1;
}

static void refuse(void *context, struct http_exchange *exchange, int status, const char *message) {
    (void)context;
    struct api_error error;
    api_error_set(&error, status, status == 413 ? "request_too_large" : NULL, NULL, "%s", message);
    if (status == 503) {
        error.retry_after_ms = RETRY_MS;
    }
    api_error_respond(&error, exchange);
}

/* --- models ---------------------------------------------------------------------------------- */

static void respond_json(struct http_exchange *exchange, const struct buf *body) {
    struct http_head head = {.status = 200, .content_type = "application/json"};
    http_exchange_respond(exchange, &head, body->data, body->len);
}

static void respond_model(struct routes *routes, struct http_exchange *exchange) {
    const char *named = http_exchange_request(exchange)->path + strlen("/v1/models/");
    char *name = NULL;
    int is_ours = http_request_decode(named, strlen(named), 0, &name) == ERR_OK &&
                  strcmp(name, routes->model) == 0;
    if (is_ours) {
        respond_json(exchange, &routes->model_body);
    } else {
        struct api_error error;
        api_error_set(&error, 404, "model_not_found", "model",
                      "The model '%.128s' does not exist here.", name != NULL ? name : named);
        api_error_respond(&error, exchange);
    }
    free(name);
}

static enum err build_models(struct routes *routes) {
    struct buf *one = &routes->model_body;
    struct buf *list = &routes->models_body;
    TRY(buf_append_text(one, "{\"id\":"));
    TRY(json_text_append_string(one, routes->model));
    TRY(buf_printf(one, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"tern\"",
                   (unsigned long long)(now_wall_ms() / 1000)));
    if (routes->params.context > 0) {
        TRY(buf_printf(one, ",\"max_model_len\":%d", routes->params.context));
    }
    TRY(buf_append_text(one, "}"));
    TRY(buf_append_text(list, "{\"object\":\"list\",\"data\":["));
    TRY(buf_append(list, one->data, one->len));
    return buf_append_text(list, "]}");
}

/* --- health and metrics ------------------------------------------------------------------------
 */

struct status {
    struct http_exchange *exchange;
    struct routes_params params;
    const char *model;
    int is_draining;
    int is_metrics;
    struct metrics metrics; /* a copy */
};

static void run_status(void *context) {
    struct status *status = context;
    struct server_snapshot snapshot = {0};
    struct buf body;
    int is_healthy = 1;
    enum err code;
    buf_init(&body, STATUS_BODY_MAX);
    status->params.snapshot(status->params.snapshot_context, &snapshot);
    if (status->is_metrics) {
        code = metrics_render(&status->metrics, route_names, &snapshot, &body);
    } else {
        code = health_body(&snapshot, status->is_draining, status->model, &body, &is_healthy);
    }
    struct http_head head = {.status = code != ERR_OK ? 500
                                       : is_healthy   ? 200
                                                      : 503,
                             .content_type = status->is_metrics
                                                 ? "text/plain; version=0.0.4; charset=utf-8"
                                                 : "application/json"};
    http_exchange_respond(status->exchange, &head, body.data, code == ERR_OK ? body.len : 0);
    buf_done(&body);
    http_exchange_release(status->exchange);
    free(status);
}

static void respond_status(struct routes *routes, struct http_exchange *exchange, int is_metrics) {
    struct status *status = calloc(1, sizeof *status);
    if (status != NULL) {
        status->exchange = exchange;
        status->params = routes->params;
        status->model = routes->model;
        status->is_draining = routes->is_draining;
        status->is_metrics = is_metrics;
        status->metrics = routes->metrics;
        if (routes->http != NULL) {
            status->metrics.connections = http_connection_count(routes->http);
            status->metrics.busy = http_busy_count(routes->http);
        }
        http_exchange_acquire(exchange);
        if (front_submit(routes->params.status_front, run_status, status) == ERR_OK) {
            return;
        }
        http_exchange_release(exchange);
        free(status);
    }
    refuse(routes, exchange, 503, "too many status requests; try again later");
}

/* --- the handler
 * ---------------------------------------------------------------------------------- */

static void handle(void *context, struct http_exchange *exchange) {
    struct routes *routes = context;
    const struct http_request *request = http_exchange_request(exchange);
    const struct row *row = find_row(request->path);
    struct api_error error;
    if (find_fault(routes, request, row, &error)) { /* draining may have begun meanwhile */
        api_error_respond(&error, exchange);
        return;
    }
    switch (row->route) {
    case CHAT:
        chat_completions_handle(&routes->chat, exchange, tenant_of(routes, request));
        return;
    case MODELS:
        respond_json(exchange, &routes->models_body);
        return;
    case MODEL:
        respond_model(routes, exchange);
        return;
    case CONVERSATION:
        conversations_delete(routes->params.service, routes->params.front, exchange,
                             tenant_of(routes, request), request->path + strlen(row->path));
        return;
    case HEALTH:
    case METRICS:
        respond_status(routes, exchange, row->route == METRICS);
        return;
    case UNKNOWN:
    case ROUTES:
        break;
    }
    assert(!"a row without a route");
}

static void note_first_text(void *context, uint64_t wait_ms) {
    struct routes *routes = context;
    histogram_observe(&routes->metrics.first_text_seconds, (double)wait_ms / 1000.0);
}

static void finished(void *context, struct http_exchange *exchange, int is_gone) {
    struct routes *routes = context;
    int route = http_exchange_get_tag(exchange);
    int code = is_gone ? CODE_GONE : http_exchange_get_status(exchange);
    uint64_t took_ms = now_monotonic_ms() - exchange->began_ms;
    metrics_count_request(&routes->metrics, route, code);
    routes->metrics.clients_gone += is_gone != 0;
    if (route == CHAT && !is_gone) {
        histogram_observe(&routes->metrics.request_seconds, (double)took_ms / 1000.0);
    }
    /* Paths and queries hold ids and salts: the log names the route only. */
    log_debug("%s %s %d %llu ms", http_exchange_id(exchange), route_names[route], code,
              (unsigned long long)took_ms);
}

/* --- life
 * -------------------------------------------------------------------------------------------- */

enum err routes_create(const struct routes_params *params, struct routes **out) {
    struct routes *routes = calloc(1, sizeof *routes);
    if (routes == NULL) {
        return err_fail(ERR_NOMEM, "routes");
    }
    routes->params = *params;
    routes->model = strdup(params->model);
    buf_init(&routes->model_body, STATUS_BODY_MAX);
    buf_init(&routes->models_body, STATUS_BODY_MAX);
    enum err code =
        routes->model == NULL ? err_fail(ERR_NOMEM, "model's name") : build_models(routes);
    if (code != ERR_OK) {
        routes_destroy(routes);
        return code;
    }
    routes->params.model = routes->model;
    routes->chat = (struct chat_completions){.service = params->service,
                                             .front = params->front,
                                             .model = routes->model,
                                             .text_max = params->text_max,
                                             .note_first_text = note_first_text,
                                             .context = routes};
    *out = routes;
    return ERR_OK;
}

void routes_destroy(struct routes *routes) {
    if (routes == NULL) {
        return;
    }
    buf_done(&routes->model_body);
    buf_done(&routes->models_body);
    free(routes->model);
    free(routes);
}

struct http_handler routes_handler(struct routes *routes) {
    return (struct http_handler){.screen = screen,
                                 .handle = handle,
                                 .refuse = refuse,
                                 .finished = finished,
                                 .context = routes};
}

void routes_set_http(struct routes *routes, const struct http *http) {
    routes->http = http;
}

void routes_drain(struct routes *routes) {
    routes->is_draining = 1;
}
