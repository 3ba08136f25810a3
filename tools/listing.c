#include "tools/listing.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { CELL_BYTES = 64, DIGEST_DIGITS_SHOWN = 12, TEXT_BYTES_MAX = 1 << 24 };

static void print_control(unsigned char byte) {
    printf("\\x%02x", byte);
}

void listing_print_text(const char *text, size_t len, const char *indent) {
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '\n') {
            printf("\n%s", indent);
        } else if (byte < 0x20 || byte == 0x7f) {
            print_control(byte);
        } else {
            putchar(byte);
        }
    }
}

/* --- cells ------------------------------------------------------------------------------- */

static void format_bytes(double bytes, char out[CELL_BYTES]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < ARRAY_LEN(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, CELL_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

static void format_time(json_int_t ms, char out[CELL_BYTES]) {
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(out, CELL_BYTES, "%Y-%m-%d %H:%M:%SZ", &tm) == 0) {
        snprintf(out, CELL_BYTES, "-");
    }
}

/* The cell of a member that is no text. */
static void format_value(const json_t *value, enum listing_form form, char out[CELL_BYTES]) {
    snprintf(out, CELL_BYTES, "-");
    if (json_is_integer(value)) {
        json_int_t number = json_integer_value(value);
        if (form == LISTING_BYTES) {
            format_bytes((double)number, out);
        } else if (form == LISTING_TIME) {
            format_time(number, out);
        } else {
            snprintf(out, CELL_BYTES, "%" JSON_INTEGER_FORMAT, number);
        }
    } else if (json_is_boolean(value)) {
        snprintf(out, CELL_BYTES, "%s", json_is_true(value) ? "yes" : "no");
    }
}

static void print_cell(const json_t *row, const struct listing_column *column) {
    const json_t *value = json_object_get(row, column->key);
    char cell[CELL_BYTES];
    if (!json_is_string(value)) {
        format_value(value, column->form, cell);
        printf("%*s", column->width, cell);
        return;
    }
    const char *text = json_string_value(value);
    size_t len = json_string_length(value);
    if (column->form == LISTING_DIGEST && len > DIGEST_DIGITS_SHOWN) {
        len = DIGEST_DIGITS_SHOWN;
    }
    size_t width = (size_t)(column->width < 0 ? -column->width : column->width);
    size_t pad = len < width ? width - len : 0;
    if (column->width > 0) {
        printf("%*s", (int)pad, "");
    }
    listing_print_text(text, len, "  ");
    if (column->width < 0) {
        printf("%*s", (int)pad, "");
    }
}

/* --- sections ---------------------------------------------------------------------------- */

static void close_section(const struct listing *listing) {
    if (listing->is_json && listing->is_list) {
        printf("%s]", listing->row_count > 0 ? "\n" : "");
    }
}

void listing_begin(struct listing *listing, int is_json, uint64_t rows_max) {
    *listing = (struct listing){.is_json = is_json, .rows_max = rows_max};
    if (is_json) {
        printf("{");
    }
}

static void open_section(struct listing *listing, const char *name) {
    close_section(listing);
    if (listing->is_json) {
        printf("%s\"%s\": ", listing->section_count > 0 ? ",\n" : "", name);
    } else {
        printf("%s%s\n", listing->section_count > 0 ? "\n" : "", name);
    }
    listing->section_count++;
    listing->row_count = 0;
    listing->is_list = 0;
}

void listing_section(struct listing *listing, const char *name,
                     const struct listing_column *columns, size_t column_count) {
    open_section(listing, name);
    listing->is_list = 1;
    listing->columns = columns;
    listing->column_count = column_count;
    if (listing->is_json) {
        printf("[");
        return;
    }
    for (size_t i = 0; i < column_count; i++) {
        printf("  %*s", columns[i].width, columns[i].title);
    }
    printf("%s", column_count > 0 ? "\n" : "");
}

int listing_is_full(const struct listing *listing) {
    return listing->rows_max > 0 && listing->row_count >= listing->rows_max;
}

enum err listing_row(struct listing *listing, json_t *row) {
    if (row == NULL) {
        return err_fail(ERR_NOMEM, "no memory for a row");
    }
    int is_good = 1;
    if (listing->is_json) {
        printf("%s", listing->row_count > 0 ? ",\n " : "\n ");
        is_good = json_dumpf(row, stdout, JSON_COMPACT) == 0;
    } else {
        for (size_t i = 0; i < listing->column_count; i++) {
            printf("  ");
            print_cell(row, &listing->columns[i]);
        }
        printf("\n");
    }
    listing->row_count++;
    json_decref(row);
    return is_good ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

enum err listing_object(struct listing *listing, const char *name, json_t *object,
                        const struct listing_column *columns, size_t column_count) {
    if (object == NULL) {
        return err_fail(ERR_NOMEM, "no memory for %s", name);
    }
    open_section(listing, name);
    int is_good = 1;
    if (listing->is_json) {
        is_good = json_dumpf(object, stdout, JSON_COMPACT) == 0;
    }
    for (size_t i = 0; i < column_count && !listing->is_json; i++) {
        printf("  %-28s", columns[i].title);
        print_cell(object, &columns[i]);
        printf("\n");
    }
    json_decref(object);
    return is_good ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

void listing_end(struct listing *listing) {
    close_section(listing);
    if (listing->is_json) {
        printf("}\n");
    }
}

/* --- values ------------------------------------------------------------------------------ */

json_t *listing_text(const void *bytes, size_t len) {
    json_t *text = json_stringn(len > 0 ? bytes : "", len);
    if (text != NULL) {
        return text;
    }
    struct buf escaped CLEANUP(buf_done);
    buf_init(&escaped, TEXT_BYTES_MAX);
    const unsigned char *at = bytes;
    for (size_t i = 0; i < len; i++) {
        int is_plain = at[i] >= 0x20 && at[i] < 0x7f;
        enum err code = is_plain ? buf_append(&escaped, at + i, 1)
                                 : buf_printf(&escaped, "\\x%02x", (unsigned)at[i]);
        if (code != ERR_OK) {
            return NULL;
        }
    }
    return json_stringn((const char *)escaped.data, escaped.len);
}

json_t *listing_digest(const uint8_t *bytes, size_t len) {
    static const char digits[] = "0123456789abcdef";
    char hex[128];
    assert(2 * len <= sizeof hex);
    for (size_t i = 0; i < len; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    return json_stringn(hex, 2 * len);
}

json_t *listing_number(uint64_t number) {
    return json_integer((json_int_t)(number > INT64_MAX ? INT64_MAX : number));
}
