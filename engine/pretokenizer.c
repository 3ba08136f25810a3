#include "engine/pretokenizer.h"

#include <string.h>

/*
 * White space inside a class: Unicode White_Space. PCRE2's own \s also takes U+180E, which the
 * tokenizers' does not.
 */
#define SPACES                                                                                     \
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}"           \
    "\\x{202F}\\x{205F}\\x{3000}"
#define SPACE "[" SPACES "]"
#define NOT_SPACE "[^" SPACES "]"
#define SPACES_AT_END "|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"

/* Contractions in lower case only; letters, digits and symbols take one space in front. */
#define WORDS                                                                                      \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+" SPACES_AT_END

/* Contractions in any case; any one symbol joins the letters after it; up to three digits. */
#define WORDS_AND_LINES                                                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"                       \
    "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+" SPACES_AT_END

static const struct pretokenizer groups[] = {
    {
        .name = "gpt-2",
        .names = (const char *const[]){"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es",
                                       "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "modern-bert",
                                       "mpt", "olmo", "jais", "trillion", "granite-docling",
                                       "exaone4", NULL},
        .stages = (const char *const[]){WORDS, NULL},
    },
    {
        .name = "dbrx",
        .names = (const char *const[]){"dbrx", "smaug-bpe", "glm4", "chatglm-bpe", NULL},
        .stages = (const char *const[]){WORDS_AND_LINES, NULL},
    },
    {
        .name = "llama-bpe",
        .names = (const char *const[]){"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1",
                                       "lfm2", "pixtral", "midm-2.0", "jina-v5-nano", NULL},
        .stages = (const char *const[]){WORDS_AND_LINES, NULL},
        .ignores_merges = 1,
        .adds_bos = 1,
    },
    {
        .name = "default",
        .names = (const char *const[]){"default", NULL},
        .stages =
            (const char *const[]){"[\\p{P}$+<=>^|~]+", WORDS, "\\p{N}+", "[0-9][0-9][0-9]", NULL},
    },
};

const struct pretokenizer *pretokenizer_find(const char *name, size_t len) {
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        for (const char *const *known = groups[i].names; *known != NULL; known++) {
            if (strlen(*known) == len && memcmp(*known, name, len) == 0) {
                return &groups[i];
            }
        }
    }
    return NULL;
}
