/*
 * Errors. A fallible function returns enum err, is marked MUST_USE and leaves
 * its out pointers untouched on failure. The place that knows the cause calls
 * err_fail, which keeps a message for the calling thread; TRY forwards.
 *
 * The message belongs to the thread and stands until its next err_fail or
 * err_clear; code that hands an error to another thread copies the text.
 */
#ifndef TERN_BASE_ERR_H
#define TERN_BASE_ERR_H

#include "base/object.h"

enum err {
    ERR_OK = 0,
    ERR_INVALID,     /* an argument or a request that can never be served */
    ERR_NOMEM,       /* an allocation failed, or a memory cap would be passed */
    ERR_IO,          /* the operating system refused a read, write, map or sync */
    ERR_FORMAT,      /* a file or record is malformed */
    ERR_CORRUPT,     /* a record is well-formed but fails its checksum or its key */
    ERR_UNSUPPORTED, /* well-formed, but not something this build can do */
    ERR_NOT_FOUND,   /* the named thing does not exist */
    ERR_FULL,        /* a bounded queue, pool or store has no room */
    ERR_BUSY,        /* somebody else holds it */
    ERR_CONFLICT,    /* a generation, turn or digest differs from what was expected */
    ERR_CANCELLED,   /* given up on purpose */
    ERR_DEVICE,      /* a device call failed; the device may be unusable */
    ERR_CLOSED,      /* the other side has shut down */
};

/*
 * err_fail(code, format, ...) keeps a printf-style message for this thread and gives CODE;
 * err_context(code, format, ...) puts its text and ": " in front of the message there is.
 * Macros, so that the compiler sees that a failure with a constant code is one.
 */
#define err_fail(code, ...)                                                                        \
    __extension__({                                                                                \
        enum err err_code_ = (code);                                                               \
        err_record(__VA_ARGS__);                                                                   \
        err_code_;                                                                                 \
    })
#define err_context(code, ...)                                                                     \
    __extension__({                                                                                \
        enum err err_code_ = (code);                                                               \
        err_record_context(__VA_ARGS__);                                                           \
        err_code_;                                                                                 \
    })

void err_record(const char *format, ...) PRINTF_LIKE(1, 2);
void err_record_context(const char *format, ...) PRINTF_LIKE(1, 2);

/* This thread's last message, never NULL; valid until the next err_fail or err_clear. */
const char *err_message(void);

/* The constant's name without its prefix in lower case: "io", "not_found". */
const char *err_name(enum err code);

void err_clear(void);

#define TRY(expression)                                                                            \
    do {                                                                                           \
        enum err try_code_ = (expression);                                                         \
        if (try_code_ != ERR_OK) {                                                                 \
            return try_code_;                                                                      \
        }                                                                                          \
    } while (0)

#endif
