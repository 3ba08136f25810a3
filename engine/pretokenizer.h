/*
 * The pre-tokenizers that files name in tokenizer.ggml.pre, as data: which patterns split the
 * text and which flags go with the name. Constant; any thread. Patterns are PCRE2 with
 * PCRE2_UTF | PCRE2_UCP.
 */
#ifndef TERN_ENGINE_PRETOKENIZER_H
#define TERN_ENGINE_PRETOKENIZER_H

#include <stddef.h>

struct pretokenizer {
    const char *name;          /* of the group; the first of names */
    const char *const *names;  /* all names of the group, NULL at the end */
    const char *const *stages; /* patterns, NULL at the end; each splits each piece before, alone */
    int ignores_merges;        /* a whole piece that is a token is that token */
    int adds_bos;              /* where the file does not say */
};

/* NULL for a name that is not known: there is no fallback. NAME need not be terminated. */
const struct pretokenizer *pretokenizer_find(const char *name, size_t len);

#endif
