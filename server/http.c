#include "server/http.h"

#include "base/log.h"
#include "server/http_connection.h"

#include <errno.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 511,
    MAILS_A_TURN = 256, /* before sockets get their turn */
};

struct http_limits http_limits_default(void) {
    return (struct http_limits){
        .connections_max = 1024,
        .body_max = 16 << 20,
        .bodies_max = 256 << 20,
        .output_max = 8 << 20,
        .head_ms = 20000,
        .body_ms = 30000,
        .idle_ms = 75000,
        .stall_ms = 60000,
        .linger_ms = 5000,
        .comment_ms = 10000,
    };
}

/* --- events ----------------------------------------------------------------------------- */

static void on_mail(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct http *http = context;
    struct mailbox *mailbox = http->hub->mailbox;
    mailbox_settle(mailbox);
    for (int i = 0; i < MAILS_A_TURN; i++) {
        struct mail *mail = mailbox_take(mailbox);
        if (mail == NULL) {
            return;
        }
        struct http_exchange *exchange = (struct http_exchange *)mail;
        if (exchange->connection != NULL) {
            http_connection_attend(exchange->connection);
        }
        http_exchange_release(exchange);
    }
    event_active(http->mail_event, EV_READ, 0);
}

/* Makes room by closing the connection that has been idle for the longest time. */
static int close_idlest(struct http *http) {
    struct http_connection *idlest = NULL;
    for (struct http_connection *at = http->connections; at != NULL; at = at->next) {
        if (at->state == HTTP_CONNECTION_IDLE && at->input.len == 0 &&
            (idlest == NULL || at->since_ms <= idlest->since_ms)) {
            idlest = at;
        }
    }
    if (idlest != NULL) {
        http_connection_close_idle(idlest);
    }
    return idlest != NULL;
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
                      int address_len, void *context) {
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                               "Content-Length: 0\r\nConnection: close\r\n\r\n";
    (void)listener;
    (void)address;
    (void)address_len;
    struct http *http = context;
    if (http->connection_count >= http->limits.connections_max && !close_idlest(http)) {
        ssize_t sent = send(fd, full, sizeof full - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)sent;
        close(fd);
        return;
    }
    if (http_connection_create(http, fd) != ERR_OK) {
        log_warn("a connection was refused: %s", err_message());
    }
}

/* Out of descriptors or memory: accepting pauses, else the loop would spin. */
static void on_accept_error(struct evconnlistener *listener, void *context) {
    struct http *http = context;
    struct timeval pause = {.tv_usec = 200000};
    log_warn("accept: %s", strerror(errno));
    evconnlistener_disable(listener);
    evtimer_add(http->listen_event, &pause);
}

static void on_listen_again(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct http *http = context;
    evconnlistener_enable(http->listener);
}

/* --- life ------------------------------------------------------------------------------- */

/* A listening socket on the first address of HOST that takes it; -1: errno says why not. */
static int listen_on(const struct addrinfo *addresses) {
    int failure = EADDRNOTAVAIL;
    for (const struct addrinfo *at = addresses; at != NULL; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int one = 1;
        if (fd < 0) {
            failure = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) {
            return fd;
        }
        failure = errno;
        close(fd);
    }
    errno = failure;
    return -1;
}

static int port_of(int fd) {
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        return 0;
    }
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static enum err open_listener(struct http *http, const char *host, int port) {
    char service[16];
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses = NULL;
    snprintf(service, sizeof service, "%d", port);
    int failure = getaddrinfo(host, service, &hints, &addresses);
    if (failure != 0) {
        return err_fail(ERR_IO, "--host %s: %s", host, gai_strerror(failure));
    }
    int fd = listen_on(addresses);
    freeaddrinfo(addresses);
    if (fd < 0) {
        return err_fail(ERR_IO, "cannot listen on --host %s --port %d: %s", host, port,
                        strerror(errno));
    }
    http->port = port_of(fd);
    http->listener = evconnlistener_new(http->base, on_accept, http,
                                        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (http->listener == NULL) {
        close(fd);
        return err_fail(ERR_NOMEM, "listener");
    }
    evconnlistener_set_error_cb(http->listener, on_accept_error);
    return ERR_OK;
}

static enum err open_events(struct http *http) {
    TRY(http_exchange_hub_create(http->limits.output_max, &http->hub));
    http->mail_event =
        event_new(http->base, mailbox_fd(http->hub->mailbox), EV_READ | EV_PERSIST, on_mail, http);
    http->listen_event = evtimer_new(http->base, on_listen_again, http);
    if (http->mail_event == NULL || http->listen_event == NULL ||
        event_add(http->mail_event, NULL) != 0) {
        return err_fail(ERR_NOMEM, "the loop's events");
    }
    return ERR_OK;
}

enum err http_create(struct event_base *base, const char *host, int port,
                     const struct http_limits *limits, const struct http_handler *handler,
                     struct http **out) {
    struct http *http = calloc(1, sizeof *http);
    if (http == NULL) {
        return err_fail(ERR_NOMEM, "HTTP server");
    }
    http->base = base;
    http->limits = *limits;
    http->handler = *handler;
    enum err code = open_events(http);
    if (code == ERR_OK) {
        code = open_listener(http, host, port);
    }
    if (code != ERR_OK) {
        http_destroy(http);
        return code;
    }
    *out = http;
    return ERR_OK;
}

static void free_event(struct event *event) {
    if (event != NULL) {
        event_free(event);
    }
}

void http_destroy(struct http *http) {
    if (http == NULL) {
        return;
    }
    if (http->listener != NULL) {
        evconnlistener_free(http->listener);
    }
    while (http->connections != NULL) {
        http_connection_destroy(http->connections);
    }
    free_event(http->mail_event);
    free_event(http->listen_event);
    if (http->hub != NULL) {
        struct mailbox *mailbox = http->hub->mailbox;
        mailbox_close(mailbox);
        for (struct mail *mail = mailbox_take(mailbox); mail != NULL;
             mail = mailbox_take(mailbox)) {
            http_exchange_release((struct http_exchange *)mail);
        }
        http_exchange_hub_release(http->hub);
    }
    free(http);
}

int http_port(const struct http *http) {
    return http->port;
}

void http_drain(struct http *http) {
    atomic_store(&http->hub->is_draining, 1);
    for (struct http_connection *at = http->connections; at != NULL;) {
        struct http_connection *next = at->next;
        http_connection_close_idle(at);
        at = next;
    }
}

void http_stop_all(struct http *http) {
    for (struct http_connection *at = http->connections; at != NULL; at = at->next) {
        if (at->state == HTTP_CONNECTION_BUSY) {
            http_exchange_stop(at->exchange);
        }
    }
}

int http_busy_count(const struct http *http) {
    return http->busy_count;
}

int http_connection_count(const struct http *http) {
    return http->connection_count;
}
