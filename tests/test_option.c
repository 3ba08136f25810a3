#include "tools/option.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ARGUMENTS_MAX = 8, OUTPUT_BYTES = 2048 };

struct values {
    int flag;
    const char *text;
    long long integer;
    double number;
    long long bytes;
    const char *positionals[1];
    int positional_count;
    char output[OUTPUT_BYTES]; /* of both streams */
};

/* Keeps what is written to both streams while BODY of a test runs. */
static void begin_capture(int saved[2], FILE *file) {
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        saved[i] = dup(i + 1);
        dup2(fileno(file), i + 1);
    }
}

static void end_capture(int saved[2], FILE *file, char *out) {
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
    }
    rewind(file);
    size_t len = fread(out, 1, OUTPUT_BYTES - 1, file);
    out[len] = '\0';
    fclose(file);
}

static enum option_outcome parse(struct values *values, const char *line) {
    char copy[256];
    char *argv[ARGUMENTS_MAX] = {"try"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    *values = (struct values){.integer = 5, .number = 0.5, .bytes = 7};
    const struct option_entry entries[] = {
        {.name = "flag", .kind = OPTION_FLAG, .value = &values->flag, .help = "a flag"},
        {.name = "text",
         .kind = OPTION_TEXT,
         .value = &values->text,
         .argument = "TEXT",
         .help = "a text"},
        {.name = "integer",
         .kind = OPTION_INT,
         .value = &values->integer,
         .argument = "N",
         .help = "a number",
         .min = 1,
         .max = 10},
        {.name = "number", .kind = OPTION_NUMBER, .value = &values->number, .argument = "X"},
        {.name = "bytes", .kind = OPTION_BYTES, .value = &values->bytes, .argument = "SIZE"},
    };
    const struct option_spec spec = {.usage = "tern try [options] [NAME]",
                                     .summary = "Tries.",
                                     .entries = entries,
                                     .count = ARRAY_LEN(entries),
                                     .positional_max = 1};
    int saved[2];
    FILE *file = tmpfile();
    begin_capture(saved, file);
    enum option_outcome outcome =
        option_parse(&spec, argc, argv, values->positionals, &values->positional_count);
    end_capture(saved, file, values->output);
    values->text = values->text == NULL ? NULL : strstr(line, values->text); /* outlives COPY */
    if (values->positional_count > 0) {
        values->positionals[0] = strstr(line, values->positionals[0]);
    }
    return outcome;
}

static void test_option_reads_every_kind(void **state) {
    (void)state;
    struct values values;
    assert_int_equal(parse(&values, ""), OPTION_RUN);
    assert_int_equal(values.integer, 5);
    assert_int_equal(values.positional_count, 0);
    assert_int_equal(parse(&values, "--flag --text=a=b --integer 10 --number -2.5e1 --bytes=3k"),
                     OPTION_RUN);
    assert_int_equal(values.flag, 1);
    assert_string_equal(values.text, "a=b --integer 10 --number -2.5e1 --bytes=3k");
    assert_int_equal(values.integer, 10);
    assert_true(values.number == -25.0);
    assert_int_equal(values.bytes, 3 * 1024);
    assert_int_equal(parse(&values, "--bytes 2G --integer 1 --integer 2"), OPTION_RUN);
    assert_int_equal(values.bytes, 2LL << 30);
    assert_int_equal(values.integer, 2);
    assert_int_equal(parse(&values, "--text --flag"), OPTION_RUN);
    assert_string_equal(values.text, "--flag");
    assert_int_equal(values.flag, 0);
}

static void test_option_takes_positionals(void **state) {
    (void)state;
    struct values values;
    assert_int_equal(parse(&values, "name --flag"), OPTION_RUN);
    assert_int_equal(values.positional_count, 1);
    assert_string_equal(values.positionals[0], "name --flag");
    assert_int_equal(values.flag, 1);
    assert_int_equal(parse(&values, "-- --flag"), OPTION_RUN);
    assert_string_equal(values.positionals[0], "--flag");
    assert_int_equal(values.flag, 0);
    assert_int_equal(parse(&values, "-"), OPTION_RUN);
    assert_int_equal(values.positional_count, 1);
    assert_int_equal(parse(&values, "one two"), OPTION_WRONG);
    assert_non_null(strstr(values.output, "'two'"));
}

static void test_option_names_what_is_wrong(void **state) {
    (void)state;
    static const char *const lines[][2] = {
        {"--unknown", "unknown option '--unknown'"},
        {"--unknown=3", "unknown option '--unknown'"},
        {"--fla", "unknown option '--fla'"},
        {"-f", "unknown option '-f'"},
        {"--flag=1", "option --flag takes no value"},
        {"--text", "option --text needs a value"},
        {"--integer x", "option --integer: 'x' is not a whole number from 1 to 10"},
        {"--integer 0", "option --integer: '0'"},
        {"--integer 11", "option --integer: '11'"},
        {"--integer 3x", "option --integer: '3x'"},
        {"--integer=", "option --integer: ''"},
        {"--integer 99999999999999999999", "option --integer"},
        {"--number nan", "option --number: 'nan' is not a number"},
        {"--number inf", "option --number"},
        {"--number 1,5", "option --number"},
        {"--bytes 5X", "option --bytes: '5X' is not a size such as 512M"},
        {"--bytes -5", "option --bytes"},
        {"--bytes 5MB", "option --bytes"},
        {"--bytes 9000000000000T", "option --bytes"},
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct values values;
        assert_int_equal(parse(&values, lines[i][0]), OPTION_WRONG);
        if (strstr(values.output, "tern try: ") != values.output ||
            strstr(values.output, lines[i][1]) == NULL) {
            fail_msg("%s: '%s'", lines[i][0], values.output);
        }
    }
}

static void test_option_shows_the_usage(void **state) {
    (void)state;
    struct values values;
    assert_int_equal(parse(&values, "--help --unknown"), OPTION_HELP_SHOWN);
    assert_non_null(strstr(values.output, "usage: tern try [options] [NAME]\n"));
    assert_non_null(strstr(values.output, "  --text TEXT   a text\n"));
    assert_non_null(strstr(values.output, "  --help        show this text\n"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_option_reads_every_kind),
        cmocka_unit_test(test_option_takes_positionals),
        cmocka_unit_test(test_option_names_what_is_wrong),
        cmocka_unit_test(test_option_shows_the_usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
