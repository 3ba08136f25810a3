#include "engine/demo/demo_model.h"

#include <stdint.h>

/* TERN_DEMO_MODEL_FILE is the path of the file at build time, set by CMake. */
__asm__(".pushsection .rodata.demo_model, \"a\", @progbits\n"
        ".balign 64\n"
        ".global demo_model_begin\n"
        ".hidden demo_model_begin\n"
        "demo_model_begin:\n"
        ".incbin \"" TERN_DEMO_MODEL_FILE "\"\n"
        ".global demo_model_end\n"
        ".hidden demo_model_end\n"
        "demo_model_end:\n"
        ".byte 0\n"
        ".popsection\n");

extern const uint8_t demo_model_begin[] __attribute__((visibility("hidden")));
extern const uint8_t demo_model_end[] __attribute__((visibility("hidden")));

const void *demo_model_data(size_t *bytes_out) {
    /* As integers: to C the two symbols are different arrays. */
    *bytes_out = (size_t)((uintptr_t)demo_model_end - (uintptr_t)demo_model_begin);
    return demo_model_begin;
}
