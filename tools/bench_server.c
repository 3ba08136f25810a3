#include "tools/bench_server.h"

#include "base/buf.h"
#include "base/now.h"
#include "tools/stop_signal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ARGUMENTS_MAX = BENCH_SERVER_FLAGS_MAX + 16,
    LINE_BYTES = 512,
    LOG_TAIL_BYTES = 2000,
    METRICS_BYTES_MAX = 1 << 20,
    START_MS_MAX = 600 * 1000, /* a walk over a large store after an unclean end included */
    STOP_MS_MAX = 120 * 1000,
    STATUS_OK = 200,
};

struct bench_server {
    struct bench_server_config config;
    struct http_client_url url;
    pid_t pid;      /* 0: it does not run */
    int output_fd;  /* of its standard output; -1: it does not run */
    int log_fd;     /* a file in memory that both processes have open */
    double seconds; /* of the last start */
};

enum err bench_server_create(const struct bench_server_config *config, struct bench_server **out) {
    struct bench_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return err_fail(ERR_NOMEM, "server");
    }
    server->config = *config;
    server->output_fd = -1;
    server->log_fd = memfd_create("tern-serve-log", MFD_CLOEXEC);
    if (server->log_fd < 0) {
        free(server);
        return err_fail(ERR_IO, "memfd_create: %s", strerror(errno));
    }
    *out = server;
    return ERR_OK;
}

/* --- the child's end ------------------------------------------------------------------------- */

/* Waits for the child, which has ended or is about to, and forgets it. */
static int reap(struct bench_server *server) {
    int status = 0;
    while (waitpid(server->pid, &status, 0) < 0 && errno == EINTR) {
    }
    close(server->output_fd);
    server->output_fd = -1;
    server->pid = 0;
    return status;
}

static void kill_and_reap(struct bench_server *server) {
    if (server->pid != 0) {
        kill(server->pid, SIGKILL);
        reap(server);
    }
}

static void show_log(const struct bench_server *server) {
    char tail[LOG_TAIL_BYTES];
    off_t size = lseek(server->log_fd, 0, SEEK_END);
    off_t from = size > LOG_TAIL_BYTES ? size - LOG_TAIL_BYTES : 0;
    ssize_t len = pread(server->log_fd, tail, sizeof tail, from);
    if (len > 0) {
        fprintf(stderr, "--- the end of the server's log:\n%.*s---\n", (int)len, tail);
    }
}

void bench_server_destroy(struct bench_server *server, enum err code) {
    if (server == NULL) {
        return;
    }
    kill_and_reap(server);
    if (code != ERR_OK && code != ERR_CANCELLED) {
        show_log(server);
    }
    close(server->log_fd);
    free(server);
}

static enum err ended(int status, const char *when) {
    if (WIFSIGNALED(status)) {
        return err_fail(ERR_IO, "the server ended by signal %d %s", WTERMSIG(status), when);
    }
    return err_fail(ERR_IO, "the server ended with status %d %s", WEXITSTATUS(status), when);
}

/* Until the child has written to its standard output, or closed it by ending. */
static enum err await_output(const struct bench_server *server, uint64_t deadline_ms) {
    struct pollfd fds[2] = {{.fd = server->output_fd, .events = POLLIN},
                            {.fd = server->config.cancel_fd, .events = POLLIN}};
    for (;;) {
        uint64_t now_ms = now_monotonic_ms();
        int left_ms = now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0;
        int ready = poll(fds, ARRAY_LEN(fds), left_ms);
        if (ready == 0) {
            return err_fail(ERR_IO, "the server takes too long");
        }
        if (ready < 0 && errno != EINTR) {
            return err_fail(ERR_IO, "poll: %s", strerror(errno));
        }
        if (ready > 0 && fds[1].revents != 0) {
            return err_fail(ERR_CANCELLED, "told to stop");
        }
        if (ready > 0 && fds[0].revents != 0) {
            return ERR_OK;
        }
    }
}

enum err bench_server_stop(struct bench_server *server) {
    char rest[LINE_BYTES];
    uint64_t deadline_ms = now_monotonic_ms() + STOP_MS_MAX;
    assert(server->pid != 0);
    kill(server->pid, SIGTERM);
    do {
        TRY(await_output(server, deadline_ms));
    } while (read(server->output_fd, rest, sizeof rest) > 0);
    int status = reap(server);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return ended(status, "when it was told to stop");
    }
    return ERR_OK;
}

/* --- its begin ---------------------------------------------------------------------------------
 */

static void fill_arguments(const struct bench_server *server,
                           const char *arguments[ARGUMENTS_MAX]) {
    const struct bench_server_config *config = &server->config;
    size_t count = 0;
    arguments[count++] = "tern";
    arguments[count++] = "serve";
    arguments[count++] = "--port";
    arguments[count++] = "0";
    arguments[count++] = "--store";
    arguments[count++] = config->store;
    if (config->model != NULL) {
        arguments[count++] = "--model";
        arguments[count++] = config->model;
    }
    for (size_t i = 0; i < BENCH_SERVER_FLAGS_MAX && config->flags[i] != NULL; i++) {
        arguments[count++] = config->flags[i];
    }
    assert(count < ARGUMENTS_MAX);
    arguments[count] = NULL;
}

/* In the child, between fork and exec: nothing but system calls. */
static void become_server(const struct bench_server *server, int output_fd, pid_t parent,
                          const char *const *arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(EXIT_FAILURE); /* it died before it could be told of */
    }
    setpgid(0, 0); /* what the terminal sends to the benchmark is not for its server */
    stop_signal_unblock();
    int input_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input_fd < 0 || dup2(input_fd, STDIN_FILENO) < 0 || dup2(output_fd, STDOUT_FILENO) < 0 ||
        dup2(server->log_fd, STDERR_FILENO) < 0) {
        _exit(EXIT_FAILURE);
    }
    /* execv takes its strings as char * and leaves them alone. */
    execv("/proc/self/exe", (char *const *)(uintptr_t)arguments);
    _exit(EXIT_FAILURE);
}

static enum err spawn(struct bench_server *server) {
    const char *arguments[ARGUMENTS_MAX];
    int fds[2];
    fill_arguments(server, arguments);
    if (pipe2(fds, O_CLOEXEC) != 0) {
        return err_fail(ERR_IO, "pipe: %s", strerror(errno));
    }
    pid_t parent = getpid();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        become_server(server, fds[1], parent, arguments);
    }
    int failure = errno;
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return err_fail(ERR_IO, "fork: %s", strerror(failure));
    }
    server->pid = pid;
    server->output_fd = fds[0];
    return ERR_OK;
}

/* The first line of the child's output, without its end. */
static enum err read_line(struct bench_server *server, char line[LINE_BYTES]) {
    uint64_t deadline_ms = now_monotonic_ms() + START_MS_MAX;
    size_t len = 0;
    for (;;) {
        TRY(await_output(server, deadline_ms));
        ssize_t got = read(server->output_fd, line + len, 1);
        if (got == 0) {
            return ended(reap(server), "before it listened");
        }
        if (got < 0) {
            return err_fail(ERR_IO, "the server's output: %s", strerror(errno));
        }
        if (line[len] == '\n') {
            line[len] = '\0';
            return ERR_OK;
        }
        if (++len == LINE_BYTES) {
            return err_fail(ERR_FORMAT, "the server's first line is too long");
        }
    }
}

static enum err start(struct bench_server *server) {
    static const char said[] = "tern: listening on ";
    char line[LINE_BYTES];
    uint64_t started_ns = now_monotonic_ns();
    TRY(spawn(server));
    TRY(read_line(server, line));
    if (strncmp(line, said, sizeof said - 1) != 0) {
        return err_fail(ERR_FORMAT, "the server said '%.100s', expected '%sURL'", line, said);
    }
    TRY(http_client_parse_url(line + sizeof said - 1, &server->url));
    server->seconds = (double)(now_monotonic_ns() - started_ns) * 1e-9;
    return ERR_OK;
}

enum err bench_server_start(struct bench_server *server) {
    assert(server->pid == 0);
    enum err code = start(server);
    if (code != ERR_OK) {
        kill_and_reap(server);
    }
    return code;
}

/* --- asking it ---------------------------------------------------------------------------------
 */

double bench_server_start_seconds(const struct bench_server *server) {
    return server->seconds;
}

const struct http_client_url *bench_server_url(const struct bench_server *server) {
    return &server->url;
}

int bench_server_cancel_fd(const struct bench_server *server) {
    return server->config.cancel_fd;
}

static enum err read_metrics(const struct bench_server *server, struct buf *out) {
    struct http_client_request request = {
        .url = &server->url, .path = "/metrics", .cancel_fd = server->config.cancel_fd};
    struct http_client *client;
    char step[8 * 1024];
    size_t len = 1;
    TRY(http_client_open(&request, &client));
    enum err code = http_client_status(client) == STATUS_OK
                        ? ERR_OK
                        : err_fail(ERR_IO, "/metrics: status %d", http_client_status(client));
    while (code == ERR_OK && len > 0) {
        code = http_client_read(client, step, sizeof step, &len);
        code = code == ERR_OK ? buf_append(out, step, len) : code;
    }
    http_client_close(client);
    return code;
}

enum err bench_server_metric(const struct bench_server *server, const char *name, double *out) {
    CLEANUP(buf_done) struct buf body;
    const char *text;
    size_t name_len = strlen(name);
    buf_init(&body, METRICS_BYTES_MAX);
    TRY(read_metrics(server, &body));
    TRY(buf_text(&body, &text));
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, name_len) == 0 && line[name_len] == ' ') {
            *out = strtod(line + name_len, NULL);
            return ERR_OK;
        }
    }
    return err_fail(ERR_NOT_FOUND, "/metrics holds no %s", name);
}
