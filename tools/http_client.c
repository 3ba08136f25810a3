/*
 * I1  The socket does not block; every wait is a poll that also watches cancel_fd.
 * I2  input[input_at, input_len) was received and not yet used.
 */
#include "tools/http_client.h"

#include "base/buf.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT_BYTES = 16 * 1024, LINE_BYTES_MAX = 8 * 1024, HEAD_LINES_MAX = 256 };

enum framing { FRAMING_LENGTH, FRAMING_CHUNKED, FRAMING_CLOSE };

struct http_client {
    int fd;
    int cancel_fd;
    int status;
    enum framing framing;
    uint64_t remaining; /* of the body, or of the chunk */
    int is_chunk_begun; /* its end is still to be read */
    int is_over;
    size_t input_at;
    size_t input_len;
    char input[INPUT_BYTES];
};

/* URLs. */

static int is_path_char(char byte) {
    return byte > ' ' && byte < 0x7f;
}

enum err http_client_parse_url(const char *text, struct http_client_url *out) {
    static const char scheme[] = "http://";
    if (strncmp(text, "https://", 8) == 0) {
        return err_fail(ERR_UNSUPPORTED, "'%s': https is not supported", text);
    }
    if (strncmp(text, scheme, sizeof scheme - 1) != 0) {
        return err_fail(ERR_INVALID, "'%s' is no URL, expected http://HOST[:PORT]", text);
    }
    const char *host = text + sizeof scheme - 1;
    const char *slash = strchr(host, '/');
    const char *end = slash == NULL ? host + strlen(host) : slash;
    int is_bracketed = host[0] == '[';
    const char *close = is_bracketed ? memchr(host, ']', (size_t)(end - host)) : NULL;
    if (is_bracketed && close == NULL) {
        return err_fail(ERR_INVALID, "'%s': ']' is missing", text);
    }
    const char *search = is_bracketed ? close : host;
    const char *colon = memchr(search, ':', (size_t)(end - search));
    const char *name = host + is_bracketed;
    const char *name_end = is_bracketed ? close : colon != NULL ? colon : end;
    const char *port = colon == NULL ? "80" : colon + 1;
    size_t port_len = colon == NULL ? 2 : (size_t)(end - port);
    size_t path_len = strlen(end);
    while (path_len > 0 && end[path_len - 1] == '/') {
        path_len--;
    }
    struct http_client_url url = {0};
    size_t name_len = (size_t)(name_end - name);
    if (name_len == 0 || name_len >= sizeof url.host || port_len == 0 || port_len > 5 ||
        strspn(port, "0123456789") < port_len || path_len >= sizeof url.path ||
        (is_bracketed && close + 1 != end && close + 1 != colon)) {
        return err_fail(ERR_INVALID, "'%s' is no URL, expected http://HOST[:PORT]", text);
    }
    for (const char *at = text; *at != '\0'; at++) {
        if (!is_path_char(*at)) {
            return err_fail(ERR_INVALID, "'%s': a URL holds no blanks or other such bytes", text);
        }
    }
    memcpy(url.host, name, name_len);
    memcpy(url.port, port, port_len);
    memcpy(url.path, end, path_len);
    *out = url;
    return ERR_OK;
}

/* The connection. */

static enum err wait_for(const struct http_client *client, short events) {
    struct pollfd fds[2] = {{.fd = client->fd, .events = events},
                            {.fd = client->cancel_fd, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            return err_fail(ERR_IO, "poll: %s", strerror(errno));
        }
        if (fds[1].revents != 0) {
            return err_fail(ERR_CANCELLED, "cancelled");
        }
        if (fds[0].revents != 0) {
            return ERR_OK;
        }
    }
}

/* ERR_IO leaves errno; the caller tries the next address. */
static enum err connect_to(struct http_client *client, const struct addrinfo *address) {
    client->fd = socket(address->ai_family, address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
                        address->ai_protocol);
    if (client->fd < 0) {
        return ERR_IO;
    }
    if (connect(client->fd, address->ai_addr, address->ai_addrlen) == 0) {
        return ERR_OK;
    }
    if (errno != EINPROGRESS) {
        return ERR_IO;
    }
    TRY(wait_for(client, POLLOUT));
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        return ERR_IO;
    }
    errno = error;
    return error == 0 ? ERR_OK : ERR_IO;
}

static enum err connect_any(struct http_client *client, const struct http_client_url *url) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    int failed = getaddrinfo(url->host, url->port, &hints, &list);
    if (failed != 0) {
        return err_fail(ERR_IO, "%s: %s", url->host, gai_strerror(failed));
    }
    enum err err = ERR_IO;
    for (const struct addrinfo *at = list; at != NULL && err == ERR_IO; at = at->ai_next) {
        if (client->fd >= 0) {
            close(client->fd);
        }
        err = connect_to(client, at);
    }
    int error = errno;
    freeaddrinfo(list);
    if (err == ERR_IO) {
        return err_fail(ERR_IO, "%s port %s: %s", url->host, url->port, strerror(error));
    }
    return err;
}

/* A server that has refused in the middle of the body has said why: that is read, not this. */
static enum err send_all(struct http_client *client, const void *bytes, size_t len) {
    const char *at = bytes;
    while (len > 0) {
        ssize_t sent = send(client->fd, at, len, MSG_NOSIGNAL);
        if (sent >= 0) {
            at += sent;
            len -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EINTR) {
            TRY(wait_for(client, POLLOUT));
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return ERR_OK;
        } else {
            return err_fail(ERR_IO, "send: %s", strerror(errno));
        }
    }
    return ERR_OK;
}

static enum err send_request(struct http_client *client,
                             const struct http_client_request *request) {
    CLEANUP(buf_done) struct buf head;
    buf_init(&head, 64 * 1024);
    const struct http_client_url *url = request->url;
    int is_ipv6 = strchr(url->host, ':') != NULL;
    TRY(buf_printf(&head, "%s %s%s HTTP/1.1\r\nHost: %s%s%s:%s\r\nConnection: close\r\n",
                   request->body == NULL ? "GET" : "POST", url->path, request->path,
                   is_ipv6 ? "[" : "", url->host, is_ipv6 ? "]" : "", url->port));
    if (request->api_key != NULL) {
        if (strpbrk(request->api_key, "\r\n") != NULL) {
            return err_fail(ERR_INVALID, "the API key holds a line break");
        }
        TRY(buf_printf(&head, "Authorization: Bearer %s\r\n", request->api_key));
    }
    if (request->body != NULL) {
        TRY(buf_printf(&head, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                       request->body_len));
    }
    TRY(buf_append_text(&head, "\r\n"));
    TRY(send_all(client, head.data, head.len));
    return send_all(client, request->body, request->body == NULL ? 0 : request->body_len);
}

/* Receiving. *is_end: the other side has closed. The input must be used up (I2). */
static enum err fill(struct http_client *client, int *is_end) {
    for (;;) {
        ssize_t len = recv(client->fd, client->input, sizeof client->input, 0);
        if (len >= 0) {
            client->input_at = 0;
            client->input_len = (size_t)len;
            *is_end = len == 0;
            return ERR_OK;
        }
        if (errno != EAGAIN && errno != EINTR) {
            return err_fail(ERR_IO, "the connection broke: %s", strerror(errno));
        }
        TRY(wait_for(client, POLLIN));
    }
}

/* A line without its end, as a text. */
static enum err read_line(struct http_client *client, char line[LINE_BYTES_MAX]) {
    size_t len = 0;
    for (;;) {
        if (client->input_at == client->input_len) {
            int is_end;
            TRY(fill(client, &is_end));
            if (is_end) {
                return err_fail(ERR_CLOSED, "the server closed the connection");
            }
        }
        char byte = client->input[client->input_at++];
        if (byte == '\n') {
            len -= len > 0 && line[len - 1] == '\r';
            line[len] = '\0';
            return ERR_OK;
        }
        if (byte == '\0' || len == LINE_BYTES_MAX - 1) {
            return err_fail(ERR_FORMAT, "the server's answer is not HTTP");
        }
        line[len++] = byte;
    }
}

/* The value of a header line NAME, or NULL. */
static const char *header_value(const char *line, const char *name) {
    size_t len = strlen(name);
    if (strncasecmp(line, name, len) != 0 || line[len] != ':') {
        return NULL;
    }
    return line + len + 1 + strspn(line + len + 1, " \t");
}

static enum err take_header(struct http_client *client, const char *line) {
    const char *length = header_value(line, "content-length");
    const char *coding = header_value(line, "transfer-encoding");
    if (coding != NULL) {
        if (strcasecmp(coding, "chunked") != 0) {
            return err_fail(ERR_UNSUPPORTED, "transfer coding '%.40s'", coding);
        }
        client->framing = FRAMING_CHUNKED;
        client->remaining = 0;
    } else if (length != NULL && client->framing != FRAMING_CHUNKED) {
        char *end;
        errno = 0;
        client->remaining = strtoull(length, &end, 10);
        if (length[0] < '0' || length[0] > '9' || end[strspn(end, " \t")] != '\0' || errno != 0) {
            return err_fail(ERR_FORMAT, "content-length '%.40s'", length);
        }
        client->framing = FRAMING_LENGTH;
    }
    return ERR_OK;
}

static enum err read_head(struct http_client *client) {
    char line[LINE_BYTES_MAX];
    int minor;
    do {
        TRY(read_line(client, line));
        if (sscanf(line, "HTTP/1.%1d %3d", &minor, &client->status) != 2 || client->status < 100) {
            return err_fail(ERR_FORMAT, "the server's answer is not HTTP");
        }
        client->framing = FRAMING_CLOSE;
        TRY(read_line(client, line));
        for (size_t lines = 0; line[0] != '\0'; lines++) {
            if (lines == HEAD_LINES_MAX) {
                return err_fail(ERR_FORMAT, "the answer's head has too many lines");
            }
            TRY(take_header(client, line));
            TRY(read_line(client, line));
        }
    } while (client->status < 200);
    if (client->status == 204 || client->status == 304) {
        client->is_over = 1;
    }
    return ERR_OK;
}

enum err http_client_open(const struct http_client_request *request, struct http_client **out) {
    struct http_client *client = malloc(sizeof *client);
    if (client == NULL) {
        return err_fail(ERR_NOMEM, "connection");
    }
    *client = (struct http_client){.fd = -1, .cancel_fd = request->cancel_fd};
    enum err err = connect_any(client, request->url);
    if (err == ERR_OK) {
        err = send_request(client, request);
    }
    if (err == ERR_OK) {
        err = read_head(client);
    }
    if (err != ERR_OK) {
        http_client_close(client);
        return err;
    }
    *out = client;
    return ERR_OK;
}

void http_client_close(struct http_client *client) {
    if (client == NULL) {
        return;
    }
    if (client->fd >= 0) {
        close(client->fd);
    }
    free(client);
}

int http_client_status(const struct http_client *client) {
    return client->status;
}

/* The size line of the next chunk, with the end of the one before; the last one ends the body. */
static enum err begin_chunk(struct http_client *client) {
    char line[LINE_BYTES_MAX];
    if (client->is_chunk_begun) {
        TRY(read_line(client, line));
        if (line[0] != '\0') {
            return err_fail(ERR_FORMAT, "a chunk of the body is longer than it says");
        }
    }
    TRY(read_line(client, line));
    char *end;
    errno = 0;
    client->remaining = strtoull(line, &end, 16);
    if (strspn(line, "0123456789abcdefABCDEF") == 0 || errno != 0 ||
        (end[0] != '\0' && strchr("; \t", end[0]) == NULL)) {
        return err_fail(ERR_FORMAT, "'%.40s' is no size of a chunk", line);
    }
    client->is_chunk_begun = 1;
    if (client->remaining > 0) {
        return ERR_OK;
    }
    client->is_over = 1;
    for (size_t lines = 0; line[0] != '\0' || lines == 0; lines++) { /* trailers */
        TRY(read_line(client, line));
        if (lines == HEAD_LINES_MAX) {
            return err_fail(ERR_FORMAT, "the answer's end has too many lines");
        }
    }
    return ERR_OK;
}

enum err http_client_read(struct http_client *client, char *bytes, size_t capacity, size_t *len) {
    if (!client->is_over && client->framing == FRAMING_CHUNKED && client->remaining == 0) {
        TRY(begin_chunk(client));
    }
    client->is_over |= client->framing == FRAMING_LENGTH && client->remaining == 0;
    if (!client->is_over && client->input_at == client->input_len) {
        int is_end;
        TRY(fill(client, &is_end));
        if (is_end && client->framing != FRAMING_CLOSE) {
            return err_fail(ERR_CLOSED, "the server closed the connection in the middle");
        }
        client->is_over = is_end;
    }
    if (client->is_over) {
        *len = 0;
        return ERR_OK;
    }
    size_t there = client->input_len - client->input_at;
    there = there < capacity ? there : capacity;
    if (client->framing != FRAMING_CLOSE) {
        there = there < client->remaining ? there : (size_t)client->remaining;
        client->remaining -= there;
    }
    memcpy(bytes, client->input + client->input_at, there);
    client->input_at += there;
    *len = there;
    return ERR_OK;
}
