#include "tools/vocabulary.h"

#include "tools/model_file.h"

enum err vocabulary_load(const char *path, struct tokenizer **out) {
    struct gguf *file;
    TRY(model_file_open(path, &file));
    enum err err = tokenizer_create(file, out);
    gguf_close(file);
    return err == ERR_OK ? ERR_OK : err_context(err, "%s", model_file_label(path));
}
