/*
 * Runs a fuzz target over the files of folders, without a fuzzing engine: what a fuzzer once found
 * stays found. Usage: fuzz_<name> FOLDER_OR_FILE...
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct replay {
    size_t files;
    size_t bytes;
};

static int run_file(const char *path, struct replay *replay) {
    FILE *file = fopen(path, "rb");
    struct stat status;
    if (file == NULL || fstat(fileno(file), &status) != 0) {
        fprintf(stderr, "%s: cannot be opened\n", path);
        return 1;
    }
    size_t bytes = (size_t)status.st_size;
    uint8_t *data = malloc(bytes > 0 ? bytes : 1);
    if (data == NULL || fread(data, 1, bytes, file) != bytes) {
        fprintf(stderr, "%s: cannot be read\n", path);
        fclose(file);
        free(data);
        return 1;
    }
    fclose(file);
    fprintf(stderr, "%s\n", path); /* in front of the run: the last line names what crashed */
    LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    replay->files++;
    replay->bytes += bytes;
    return 0;
}

static int run_folder(const char *path, struct replay *replay) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        return run_file(path, replay);
    }
    int failed = 0;
    for (int i = 0; i < count; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') {
            failed |= run_file(name, replay);
        }
        free(entries[i]);
    }
    free(entries);
    return failed;
}

int main(int argc, char **argv) {
    struct replay replay = {0};
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        failed |= run_folder(argv[i], &replay);
    }
    printf("%zu files of %zu bytes in all\n", replay.files, replay.bytes);
    if (replay.files == 0) {
        fprintf(stderr, "no input, expected at least one file\n");
        return 1;
    }
    return failed;
}
