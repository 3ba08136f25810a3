#include "tools/model_file.h"

#include "engine/demo/demo_model.h"

#include <string.h>

int model_file_is_demo(const char *name) {
    return name == NULL || strcmp(name, "demo") == 0;
}

const char *model_file_label(const char *name) {
    return model_file_is_demo(name) ? "the demo model" : name;
}

enum err model_file_open(const char *name, struct gguf **out) {
    if (model_file_is_demo(name)) {
        size_t bytes;
        const void *data = demo_model_data(&bytes);
        enum err code = gguf_parse(data, bytes, out);
        return code == ERR_OK ? ERR_OK : err_context(code, "the demo model");
    }
    return gguf_open(name, out);
}
