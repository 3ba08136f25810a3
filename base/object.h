/*
 * Attributes and checked casts that every folder uses.
 *
 * MUST_USE marks a fallible function; CLEANUP(fn) runs fn(&variable) when a
 * local leaves scope; MAGIC_CHECK guards a pointer that comes back through a
 * `void *`.
 */
#ifndef TERN_BASE_OBJECT_H
#define TERN_BASE_OBJECT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))
#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define PRINTF_LIKE(format_index, first_index)                                                     \
    __attribute__((format(printf, format_index, first_index)))

/* Aborts unless OBJECT is non-null and carries the magic number of its type. */
#define MAGIC_CHECK(object, magic_number)                                                          \
    assert((object) != NULL && (object)->magic == (magic_number))

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

/* For CLEANUP on a `T *` that came from malloc. */
void object_free(void *pointer_to_pointer);

#endif
