#include "engine/answer_text.h"

#include <stdlib.h>
#include <string.h>

enum { HELD_BYTES_MAX = 16 << 20 };

enum err answer_text_init(struct answer_text *text, const char *const *stops,
                          const size_t *stop_lens, size_t stop_count) {
    *text = (struct answer_text){0};
    buf_init(&text->held, HELD_BYTES_MAX);
    buf_init(&text->ready, HELD_BYTES_MAX);
    if (stop_count == 0) {
        return ERR_OK;
    }
    text->stops = calloc(stop_count, sizeof *text->stops);
    text->stop_lens = calloc(stop_count, sizeof *text->stop_lens);
    if (text->stops == NULL || text->stop_lens == NULL) {
        answer_text_done(text);
        return err_fail(ERR_NOMEM, "%zu stop strings", stop_count);
    }
    for (size_t i = 0; i < stop_count; i++) {
        if (stop_lens[i] == 0) {
            answer_text_done(text);
            return err_fail(ERR_INVALID, "stop string %zu is empty", i);
        }
        text->stops[i] = malloc(stop_lens[i]);
        if (text->stops[i] == NULL) {
            answer_text_done(text);
            return err_fail(ERR_NOMEM, "stop string of %zu bytes", stop_lens[i]);
        }
        memcpy(text->stops[i], stops[i], stop_lens[i]);
        text->stop_lens[i] = stop_lens[i];
        text->stop_count++;
        if (stop_lens[i] > text->stop_len_max) {
            text->stop_len_max = stop_lens[i];
        }
    }
    return ERR_OK;
}

void answer_text_done(struct answer_text *text) {
    for (size_t i = 0; i < text->stop_count; i++) {
        free(text->stops[i]);
    }
    free(text->stops);
    free(text->stop_lens);
    buf_done(&text->held);
    buf_done(&text->ready);
    *text = (struct answer_text){0};
}

/* Does some stop string begin at held[at]? *is_whole: all of it is there. */
static int stop_begins_at(const struct answer_text *text, size_t at, int *is_whole) {
    size_t left = text->held.len - at;
    *is_whole = 0;
    int begins = 0;
    for (size_t i = 0; i < text->stop_count; i++) {
        size_t len = text->stop_lens[i] < left ? text->stop_lens[i] : left;
        if (memcmp(text->held.data + at, text->stops[i], len) == 0) {
            begins = 1;
            *is_whole |= len == text->stop_lens[i];
        }
    }
    return begins;
}

/* Moves the first LEN held bytes to `ready`. */
static enum err hand_out(struct answer_text *text, size_t len, const char **out, size_t *out_len) {
    buf_clear(&text->ready);
    TRY(buf_append(&text->ready, text->held.data, len));
    if (len > 0) {
        memmove(text->held.data, text->held.data + len, text->held.len - len);
        text->held.len -= len;
    }
    *out = (const char *)text->ready.data;
    *out_len = len;
    return ERR_OK;
}

/*
 * The leftmost stop string that is whole ends the text; else all but a possible beginning goes. At
 * the end of the answer a beginning is none any more, but a stop behind it may be whole.
 */
static enum err release_safe(struct answer_text *text, int is_end, const char **out, size_t *len) {
    for (size_t at = 0; at < text->held.len && text->stop_count > 0; at++) {
        int is_whole = 0;
        if (!stop_begins_at(text, at, &is_whole) || (is_end && !is_whole)) {
            continue;
        }
        text->is_stopped = is_whole;
        TRY(hand_out(text, at, out, len));
        if (is_whole) {
            buf_clear(&text->held);
        }
        return ERR_OK;
    }
    return hand_out(text, text->held.len, out, len);
}

enum err answer_text_push(struct answer_text *text, const char *bytes, size_t byte_len,
                          const char **out, size_t *len) {
    *out = NULL;
    *len = 0;
    if (text->is_stopped) {
        return ERR_OK;
    }
    uint8_t *place = NULL;
    size_t room = 3 * byte_len + 12;
    TRY(buf_extend(&text->held, room, &place));
    size_t written = utf8_stream_push(&text->stream, bytes, byte_len, (char *)place);
    text->held.len -= room - written;
    return release_safe(text, 0, out, len);
}

enum err answer_text_finish(struct answer_text *text, const char **out, size_t *len) {
    *out = NULL;
    *len = 0;
    if (text->is_stopped) {
        return ERR_OK;
    }
    uint8_t *place = NULL;
    TRY(buf_extend(&text->held, 12, &place));
    size_t written = utf8_stream_finish(&text->stream, (char *)place);
    text->held.len -= 12 - written;
    return release_safe(text, 1, out, len);
}
