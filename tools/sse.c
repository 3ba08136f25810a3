#include "tools/sse.h"

#include <string.h>

void sse_init(struct sse *sse) {
    *sse = (struct sse){0};
    buf_init(&sse->line, SSE_EVENT_BYTES_MAX);
    buf_init(&sse->name, SSE_EVENT_BYTES_MAX);
    buf_init(&sse->data, SSE_EVENT_BYTES_MAX);
}

void sse_done(struct sse *sse) {
    buf_done(&sse->line);
    buf_done(&sse->name);
    buf_done(&sse->data);
}

/* An empty line: what was gathered is an event, if it has data. */
static enum err dispatch(struct sse *sse,
                         enum err (*take)(void *context, const struct sse_event *event),
                         void *context) {
    enum err err = ERR_OK;
    if (sse->has_data) {
        struct sse_event event = {.len = sse->data.len};
        TRY(buf_text(&sse->name, &event.name));
        TRY(buf_text(&sse->data, &event.data));
        if (sse->name.len == 0) {
            event.name = "message";
        }
        err = take(context, &event);
    }
    buf_clear(&sse->name);
    buf_clear(&sse->data);
    sse->has_data = 0;
    return err;
}

static int is_field(const char *line, size_t len, const char *name) {
    return len == strlen(name) && memcmp(line, name, len) == 0;
}

/* A line that is not empty: "field: value", "field" or ": comment". */
static enum err take_field(struct sse *sse, const char *line, size_t len) {
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon == NULL ? len : (size_t)(colon - line);
    const char *value = colon == NULL ? line + len : colon + 1;
    size_t value_len = len - (size_t)(value - line);
    if (value_len > 0 && value[0] == ' ') {
        value++;
        value_len--;
    }
    if (is_field(line, name_len, "event")) {
        buf_clear(&sse->name);
        return buf_append(&sse->name, value, value_len);
    }
    if (is_field(line, name_len, "data")) {
        if (sse->has_data) {
            TRY(buf_append(&sse->data, "\n", 1));
        }
        sse->has_data = 1;
        return buf_append(&sse->data, value, value_len);
    }
    return ERR_OK;
}

static enum err end_line(struct sse *sse,
                         enum err (*take)(void *context, const struct sse_event *event),
                         void *context) {
    const char *line;
    TRY(buf_text(&sse->line, &line));
    size_t len = sse->line.len;
    if (!sse->is_past_line && len >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3;
        len -= 3;
    }
    sse->is_past_line = 1;
    enum err err = len == 0 ? dispatch(sse, take, context) : take_field(sse, line, len);
    buf_clear(&sse->line);
    return err;
}

enum err sse_push(struct sse *sse, const char *bytes, size_t len,
                  enum err (*take)(void *context, const struct sse_event *event), void *context) {
    size_t at = 0;
    while (at < len) {
        if (sse->is_after_cr && bytes[at] == '\n') {
            sse->is_after_cr = 0;
            at++;
            continue;
        }
        sse->is_after_cr = 0;
        size_t end = at;
        while (end < len && bytes[end] != '\n' && bytes[end] != '\r') {
            end++;
        }
        TRY(buf_append(&sse->line, bytes + at, end - at));
        if (end < len) {
            sse->is_after_cr = bytes[end] == '\r';
            TRY(end_line(sse, take, context));
            end++;
        }
        at = end;
    }
    return ERR_OK;
}
