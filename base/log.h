/*
 * Log lines on standard error: time, level, text. Only server/ and tools/ log
 * above debug level. Any thread may call; a line is written with one write(2),
 * so lines of several threads never mix.
 */
#ifndef TERN_BASE_LOG_H
#define TERN_BASE_LOG_H

#include "base/object.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR, LOG_LEVEL_OFF };

/* Lines below LEVEL are dropped; the default is LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);

/* Reads "debug", "info", "warn", "error" or "off"; false on anything else. */
int log_level_parse(const char *text, enum log_level *out);

void log_write(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
