#include "base/object.h"

#include <stdlib.h>
#include <string.h>

void object_free(void *pointer_to_pointer) {
    void *pointer;
    memcpy(&pointer, pointer_to_pointer, sizeof pointer);
    free(pointer);
}
