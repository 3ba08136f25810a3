#include "engine/tokenizer_pattern.h"

#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { STAGES_MAX = 8, PCRE2_MESSAGE_BYTES = 128 };

struct tokenizer_pattern {
    pcre2_code *stages[STAGES_MAX];
    size_t stage_count;
    pcre2_match_context *limits;
};

static enum err fail_pcre2(const char *what, int code) {
    PCRE2_UCHAR text[PCRE2_MESSAGE_BYTES] = "";
    pcre2_get_error_message(code, text, sizeof text);
    enum err err = code == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_UNSUPPORTED;
    return err_fail(err, "%s: %s", what, (const char *)text);
}

static enum err compile(struct tokenizer_pattern *pattern, const char *source) {
    if (pattern->stage_count == STAGES_MAX) {
        return err_fail(ERR_UNSUPPORTED, "pre-tokenizer of more than %d stages", STAGES_MAX);
    }
    int code;
    PCRE2_SIZE offset;
    pcre2_code *stage = pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
    if (stage == NULL) {
        return fail_pcre2("pattern of a pre-tokenizer", code);
    }
    pattern->stages[pattern->stage_count++] = stage;
    /* A failure is no loss but of speed: pcre2_match then interprets. */
    (void)pcre2_jit_compile(stage, PCRE2_JIT_COMPLETE);
    return ERR_OK;
}

enum err tokenizer_pattern_create(const char *const *stages, struct tokenizer_pattern **out) {
    enum err err = ERR_OK;
    struct tokenizer_pattern *pattern = calloc(1, sizeof *pattern);
    if (pattern == NULL) {
        return err_fail(ERR_NOMEM, "pre-tokenizer");
    }
    pattern->limits = pcre2_match_context_create(NULL);
    if (pattern->limits == NULL) {
        err = err_fail(ERR_NOMEM, "pre-tokenizer");
        goto fail;
    }
    /* The patterns backtrack at most once over a run, but a run may be longer than the default
     * limit of ten million steps. */
    pcre2_set_match_limit(pattern->limits, UINT32_MAX);
    for (; *stages != NULL; stages++) {
        err = compile(pattern, *stages);
        if (err != ERR_OK) {
            goto fail;
        }
    }
    *out = pattern;
    return ERR_OK;
fail:
    tokenizer_pattern_destroy(pattern);
    return err;
}

void tokenizer_pattern_destroy(struct tokenizer_pattern *pattern) {
    if (pattern == NULL) {
        return;
    }
    for (size_t i = 0; i < pattern->stage_count; i++) {
        pcre2_code_free(pattern->stages[i]);
    }
    pcre2_match_context_free(pattern->limits);
    free(pattern);
}

struct split {
    const struct tokenizer_pattern *pattern;
    const struct tokenizer_pattern_sink *sink;
    pcre2_match_data *match;
};

/*
 * The next match of STAGE at or behind FROM: its begin and end; without one both are LEN. The
 * caller has checked the UTF-8 once: PCRE2 would check all that is left on every call.
 */
static enum err next_match(const struct split *split, size_t stage, const char *text, size_t len,
                           size_t from, size_t span[2]) {
    const pcre2_code *code = split->pattern->stages[stage];
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int found;
    for (;;) {
        found = pcre2_match(code, (PCRE2_SPTR)text, len, from, options, split->match,
                            split->pattern->limits);
        if (found != PCRE2_ERROR_JIT_STACKLIMIT || (options & PCRE2_NO_JIT) != 0) {
            break;
        }
        options |= PCRE2_NO_JIT;
    }
    if (found == PCRE2_ERROR_NOMATCH) {
        span[0] = span[1] = len;
        return ERR_OK;
    }
    if (found < 0) {
        return fail_pcre2("splitting text", found);
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(split->match);
    assert(ends[0] >= from && ends[1] > ends[0] && ends[1] <= len); /* no pattern matches "" */
    span[0] = ends[0];
    span[1] = ends[1];
    return ERR_OK;
}

/* Each stage splits each piece of the stage before alone; recursion is as deep as stages. */
static enum err split_stage(const struct split *split, size_t stage, const char *text, size_t len) {
    if (len == 0) {
        return ERR_OK;
    }
    if (stage == split->pattern->stage_count) {
        return split->sink->take(split->sink->context, text, len);
    }
    for (size_t at = 0; at < len;) {
        size_t span[2] = {len, len};
        TRY(next_match(split, stage, text, len, at, span));
        TRY(split_stage(split, stage + 1, text + at, span[0] - at));
        TRY(split_stage(split, stage + 1, text + span[0], span[1] - span[0]));
        at = span[1];
    }
    return ERR_OK;
}

enum err tokenizer_pattern_split(const struct tokenizer_pattern *pattern, const char *text,
                                 size_t len, const struct tokenizer_pattern_sink *sink) {
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (match == NULL) {
        return err_fail(ERR_NOMEM, "splitting text");
    }
    struct split split = {.pattern = pattern, .sink = sink, .match = match};
    enum err err = split_stage(&split, 0, text, len);
    pcre2_match_data_free(match);
    return err;
}
