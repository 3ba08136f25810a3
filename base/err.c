#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 512 };

static _Thread_local char message[MESSAGE_BYTES];

void err_record(const char *format, ...) {
    va_list arguments;
    char text[MESSAGE_BYTES]; /* apart from `message`, which may be an argument */
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(message, text, sizeof message);
}

void err_record_context(const char *format, ...) {
    va_list arguments;
    char text[MESSAGE_BYTES];
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t used = length < 0 ? 0 : (size_t)length;
    if (used < sizeof text - 3) {
        int room = (int)(sizeof text - used - 3);
        snprintf(text + used, sizeof text - used, ": %.*s", room, message);
    }
    memcpy(message, text, sizeof message);
}

const char *err_message(void) {
    return message;
}

const char *err_name(enum err code) {
    switch (code) {
    case ERR_OK:
        return "ok";
    case ERR_INVALID:
        return "invalid";
    case ERR_NOMEM:
        return "nomem";
    case ERR_IO:
        return "io";
    case ERR_FORMAT:
        return "format";
    case ERR_CORRUPT:
        return "corrupt";
    case ERR_UNSUPPORTED:
        return "unsupported";
    case ERR_NOT_FOUND:
        return "not_found";
    case ERR_FULL:
        return "full";
    case ERR_BUSY:
        return "busy";
    case ERR_CONFLICT:
        return "conflict";
    case ERR_CANCELLED:
        return "cancelled";
    case ERR_DEVICE:
        return "device";
    case ERR_CLOSED:
        return "closed";
    }
    return "unknown";
}

void err_clear(void) {
    message[0] = '\0';
}
