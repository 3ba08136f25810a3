/*
 * The benchmarks of `tern bench`: each parses its own options and prints a table, or with --json
 * one JSON object. argv[0] is "bench" and the benchmark's name.
 */
#ifndef TERN_TOOLS_BENCH_H
#define TERN_TOOLS_BENCH_H

int bench_engine(int argc, char **argv);
int bench_resume(int argc, char **argv);
int bench_swap(int argc, char **argv);
int bench_fill(int argc, char **argv);
int bench_lookup(int argc, char **argv);

#endif
