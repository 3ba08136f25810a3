/*
 * A model's chat template: messages to the text and the token ids that the model was trained to
 * see. A conversation's first prompt is rendered as a whole; each later one continues the ids
 * that are there with a delta, so that history is never rendered again. Immutable after creation:
 * any thread. Knows nothing of requests or conversations.
 *
 * Special tokens are recognised only in what the template itself writes, never in a message.
 *
 * first + answer + delta + answer + ... are the ids of the rendering of all messages, if each
 * answer's text gives the answer's ids again and the template writes for an assistant's message,
 * up to its content, exactly its generation prompt.
 */
#ifndef TERN_ENGINE_CHAT_TEMPLATE_H
#define TERN_ENGINE_CHAT_TEMPLATE_H

#include "engine/prompt_ids.h"

struct chat_template;

enum { CHAT_TEMPLATE_DIGEST_BYTES = 32 };

struct chat_template_params {
    const char *source; /* copied */
    size_t len;
    const struct tokenizer *tokenizer; /* must outlive the template */
    /*
     * Creation refuses a template with which no conversation can be continued: one that writes
     * something else for the same messages when others follow, or an assistant's content not once,
     * or a generation prompt that does not agree with what it writes in front of an assistant's
     * content. With this it is not checked, and the template can only be rendered.
     */
    int is_for_rendering_only;
};

/* ERR_UNSUPPORTED, naming the line and what stands there, for what cannot be interpreted. */
MUST_USE enum err chat_template_create(const struct chat_template_params *params,
                                       struct chat_template **out);

/* The template of a model file, which may be closed afterwards. ERR_UNSUPPORTED if it has none. */
MUST_USE enum err chat_template_from_gguf(const struct gguf *file,
                                          const struct tokenizer *tokenizer,
                                          struct chat_template **out);
void chat_template_destroy(struct chat_template *chat_template);

/* Over the source: part of the dialect digest. */
void chat_template_digest(const struct chat_template *chat_template,
                          uint8_t out[CHAT_TEMPLATE_DIGEST_BYTES]);

/* UTF-8, which may hold NUL; not terminated. */
struct chat_message {
    const char *role;
    size_t role_len;
    const char *content;
    size_t content_len;
};

/*
 * Appends the text of MESSAGES (COUNT may be 0) to OUT, as transformers renders it. ERR_FULL, and
 * OUT as it was, beyond OUT's cap.
 */
MUST_USE enum err chat_template_render(const struct chat_template *chat_template,
                                       const struct chat_message *messages, size_t count,
                                       int add_generation_prompt, struct buf *out);

/*
 * The prompt of a new conversation, generation prompt included; BOS in front if the tokenizer asks
 * for it and the template did not write it. Replaces *out, which on failure stays as it was.
 */
MUST_USE enum err chat_template_first(const struct chat_template *chat_template,
                                      const struct chat_message *messages, size_t count,
                                      struct prompt_ids *out);

/* How the answer that a delta follows came to its end. */
struct chat_answer_end {
    int32_t last_id; /* of the answer's ids as sampled */
    int is_ended;    /* last_id is a token that ends generation; else the answer was cut */
};

/*
 * The ids that follow an assistant's answer: what the template writes behind it, then MESSAGES
 * (COUNT may be 0), then the generation prompt. An end token that was sampled is not written a
 * second time if it is the first thing that the template writes behind an answer; behind an answer
 * that was cut all of that is written. Replaces *out, which on failure stays as it was.
 */
MUST_USE enum err chat_template_delta(const struct chat_template *chat_template,
                                      const struct chat_message *messages, size_t count,
                                      const struct chat_answer_end *end, struct prompt_ids *out);

#endif
