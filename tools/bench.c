/*
 * `tern bench`: finds the benchmark and runs it.
 */
#include "tools/bench.h"
#include "tools/subcommand.h"

#include "base/err.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 64 };

struct benchmark {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help; /* one line */
};

static const struct benchmark benchmarks[] = {
    {"engine", bench_engine, "prefill, decode and every op beside what the machine can do"},
    {"resume", bench_resume, "the first token of a next turn, by where its state lies"},
    {"swap", bench_swap, "many conversations over memory for few"},
    {"fill", bench_fill, "makes a store of many conversations"},
    {"lookup", bench_lookup, "start and first token on a store of many conversations"},
};

static void print_usage(FILE *out) {
    fprintf(out, "usage: tern bench BENCHMARK [options]\n\nbenchmarks:\n");
    for (size_t i = 0; i < ARRAY_LEN(benchmarks); i++) {
        fprintf(out, "  %-12s  %s\n", benchmarks[i].name, benchmarks[i].help);
    }
    fprintf(out, "\ntern bench BENCHMARK --help lists its options.\n");
}

int subcommand_bench(int argc, char **argv) {
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_usage(stdout);
        return EXIT_CODE_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(benchmarks); i++) {
        if (strcmp(argv[1], benchmarks[i].name) == 0) {
            char called[NAME_BYTES]; /* for messages and the usage text */
            snprintf(called, sizeof called, "bench %s", argv[1]);
            argv[1] = called;
            return benchmarks[i].run(argc - 1, argv + 1);
        }
    }
    fprintf(stderr, "tern bench: unknown benchmark '%s' (tern bench --help lists them)\n", argv[1]);
    return EXIT_CODE_USAGE;
}
