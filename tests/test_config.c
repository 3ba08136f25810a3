#include "server/config.h"

#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ARGUMENTS_MAX = 16 };

/* Parses the words of LINE; the caller is done with *out after ERR_OK. */
static enum err parse(struct config *out, const char *line) {
    char copy[512];
    char *argv[ARGUMENTS_MAX] = {"serve"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    assert_int_equal(config_init(out), ERR_OK);
    enum err code = config_parse(out, argc, argv);
    if (code != ERR_OK) {
        config_done(out);
    }
    return code;
}

static void test_config_has_a_default_for_everything(void **state) {
    (void)state;
    struct config config;
    assert_int_equal(parse(&config, ""), ERR_OK);
    assert_null(config.model);
    assert_null(config.api_keys);
    assert_string_equal(config.store, "tern-store");
    assert_string_equal(config.host, "127.0.0.1");
    assert_string_equal(config.backend, "host");
    assert_int_equal(config.port, 8080);
    assert_int_equal(config.block_size, 32);
    assert_int_equal(config.kv, CONFIG_KV_F16);
    assert_int_equal(config.spill, CONFIG_SPILL_EAGER);
    assert_int_equal(config.spill_lag_ms, 1000);
    assert_int_equal(config.spill_lag_bytes, 256ull << 20);
    assert_int_equal(config.body_max_bytes, 16ull << 20);
    assert_int_equal(config.log_level, LOG_LEVEL_INFO);
    assert_int_equal(config.device_memory_bytes, 0); /* by the model */
    assert_true(config.host_memory_bytes > 0);
    assert_true(config.disk_bytes > 0 && config.ledger_reserve_bytes > 0);
    assert_true(config.queue_max > 0 && config.running_max > 0 && config.drain_seconds > 0);
    config_done(&config);
}

static void test_config_reads_every_flag(void **state) {
    (void)state;
    struct config config;
    assert_int_equal(parse(&config, "--model m.gguf --store s --host ::1 --port 0 --context 4096 "
                                    "--block-size=64 --kv bf16"),
                     ERR_OK);
    assert_string_equal(config.model, "m.gguf");
    assert_string_equal(config.store, "s");
    assert_string_equal(config.host, "::1");
    assert_int_equal(config.port, 0);
    assert_int_equal(config.context, 4096);
    assert_int_equal(config.block_size, 64);
    assert_int_equal(config.kv, CONFIG_KV_BF16);
    config_done(&config);
    assert_int_equal(parse(&config, "--device-memory 64M --host-memory 0 --disk 2G "
                                    "--ledger-reserve 1048576 --spill idle:20 --spill-lag 0.5,1G"),
                     ERR_OK);
    assert_int_equal(config.device_memory_bytes, 64ull << 20);
    assert_int_equal(config.host_memory_bytes, 0);
    assert_int_equal(config.disk_bytes, 2ull << 30);
    assert_int_equal(config.ledger_reserve_bytes, 1 << 20);
    assert_int_equal(config.spill, CONFIG_SPILL_IDLE);
    assert_int_equal(config.spill_idle_seconds, 20);
    assert_int_equal(config.spill_lag_ms, 500);
    assert_int_equal(config.spill_lag_bytes, 1ull << 30);
    config_done(&config);
    assert_int_equal(parse(&config, "--threads 3 --backend cuda --queue-max 7 --running-max 5 "
                                    "--drain-seconds 0 --body-max 1k --log-level debug"),
                     ERR_OK);
    assert_int_equal(config.threads, 3);
    assert_string_equal(config.backend, "cuda");
    assert_int_equal(config.queue_max, 7);
    assert_int_equal(config.running_max, 5);
    assert_int_equal(config.drain_seconds, 0);
    assert_int_equal(config.body_max_bytes, 1024);
    assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
    config_done(&config);
}

static void test_config_error_names_flag_and_value(void **state) {
    (void)state;
    static const char *const wrong[][2] = {
        {"--port 65536", "--port"},
        {"--port -1", "--port"},
        {"--port 80x", "--port"},
        {"--port=", "--port"},
        {"--block-size 48", "--block-size"},
        {"--block-size 0", "--block-size"},
        {"--kv f64", "--kv"},
        {"--device-memory 1Q", "--device-memory"},
        {"--disk 99999999999999999999", "--disk"},
        {"--disk 20000000T", "--disk"},
        {"--spill idle", "--spill"},
        {"--spill idle:0", "--spill"},
        {"--spill-lag 0", "--spill-lag"},
        {"--spill-lag 1,", "--spill-lag"},
        {"--spill-lag nan", "--spill-lag"},
        {"--queue-max 0", "--queue-max"},
        {"--body-max 2G", "--body-max"},
        {"--log-level loud", "--log-level"},
        {"--store=", "--store"},
        {"--model", "--model"},
        {"--disk 1M --ledger-reserve 2M", "--ledger-reserve"},
        {"--nothing 1", "--nothing"},
        {"port 5", "'port'"},
        {"--config /nowhere/at/all", "--config /nowhere/at/all"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct config config;
        assert_int_equal(parse(&config, wrong[i][0]), ERR_INVALID);
        assert_non_null(strstr(err_message(), wrong[i][1]));
    }
}

/* Writes TEXT to a file; the caller removes it. */
static void write_file(char *path, const char *text) {
    strcpy(path, "/tmp/tern-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void test_config_file_lies_below_the_command_line(void **state) {
    (void)state;
    struct config config;
    char path[64];
    char line[256];
    write_file(path, "# settings\n\n  port = 9000\nkv=f32\nstore = a b c  \r\nport = 9001\n");
    snprintf(line, sizeof line, "--kv bf16 --config %s", path);
    assert_int_equal(parse(&config, line), ERR_OK);
    unlink(path);
    assert_int_equal(config.port, 9001);
    assert_int_equal(config.kv, CONFIG_KV_BF16);
    assert_string_equal(config.store, "a b c");
    config_done(&config);
}

static void test_config_file_error_names_file_line_and_setting(void **state) {
    (void)state;
    static const char *const wrong[][2] = {{"port = 1\nport = x\n", "--port"},
                                           {"\nno such line\n", "no such line"},
                                           {"\nconfig = other\n", "config"}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct config config;
        char path[64];
        char line[256];
        write_file(path, wrong[i][0]);
        snprintf(line, sizeof line, "--config=%s", path);
        assert_int_equal(parse(&config, line), ERR_INVALID);
        unlink(path);
        assert_non_null(strstr(err_message(), path));
        assert_non_null(strstr(err_message(), "line 2"));
        assert_non_null(strstr(err_message(), wrong[i][1]));
    }
}

static void test_config_help_is_asked_for(void **state) {
    (void)state;
    struct config config;
    assert_int_equal(parse(&config, "--port 5 --help"), ERR_OK);
    assert_true(config.wants_help);
    config_done(&config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_has_a_default_for_everything),
        cmocka_unit_test(test_config_reads_every_flag),
        cmocka_unit_test(test_config_error_names_flag_and_value),
        cmocka_unit_test(test_config_file_lies_below_the_command_line),
        cmocka_unit_test(test_config_file_error_names_file_line_and_setting),
        cmocka_unit_test(test_config_help_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
