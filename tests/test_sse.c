/* Server-sent events, whole and byte by byte. */
#include "tools/sse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Events as "name=data;". */
static enum err take(void *context, const struct sse_event *event) {
    struct buf *out = context;
    assert_int_equal(event->data[event->len], '\0');
    TRY(buf_printf(out, "%s=", event->name));
    TRY(buf_append(out, event->data, event->len));
    return buf_append_text(out, ";");
}

static void check_step(const char *text, size_t len, size_t step, const char *want) {
    struct sse sse;
    struct buf out;
    const char *events;
    sse_init(&sse);
    buf_init(&out, 1 << 20);
    for (size_t at = 0; at < len; at += step) {
        size_t rest = len - at;
        assert_int_equal(sse_push(&sse, text + at, rest < step ? rest : step, take, &out), ERR_OK);
    }
    assert_int_equal(buf_text(&out, &events), ERR_OK);
    assert_string_equal(events, want);
    buf_done(&out);
    sse_done(&sse);
}

static void check(const char *text, const char *want) {
    size_t len = strlen(text);
    for (size_t step = 1; step <= len; step++) {
        check_step(text, len, step, want);
    }
}

static void test_sse_joins_the_data_of_an_event(void **state) {
    (void)state;
    check("data: a\n\n", "message=a;");
    check("data: a\ndata:b\ndata:  c\n\n", "message=a\nb\n c;");
    check("data\n\n", "message=;");
    check("data:\ndata\n\n", "message=\n;");
    check("data: {\"a\": 1}\n\ndata: [DONE]\n\n", "message={\"a\": 1};message=[DONE];");
    check("data: \xf0\x9f\x9a\x80\n\n", "message=\xf0\x9f\x9a\x80;");
}

static void test_sse_takes_every_line_break(void **state) {
    (void)state;
    check("data: a\r\n\r\ndata: b\r\r\ndata: c\n\rdata: d\r\n\n", "message=a;message=b;message=c;"
                                                                  "message=d;");
    check("data: a\r\ndata: b\rdata: c\n\n", "message=a\nb\nc;");
}

static void test_sse_names_events_and_forgets_the_name(void **state) {
    (void)state;
    check("event: error\ndata: x\n\ndata: y\n\n", "error=x;message=y;");
    check("event: gone\n\ndata: y\n\n", "message=y;");
    check("event: a\nevent: b\ndata: y\n\n", "b=y;");
}

static void test_sse_skips_what_is_no_data(void **state) {
    (void)state;
    check(": comment\n\n:\n\nid: 1\nretry: 5\ndatum: x\ndata: y\n: data: z\n\n", "message=y;");
    check("\xef\xbb\xbf"
          "data: y\n\n",
          "message=y;");
    check("\n\n\n", "");
    check(" data: y\n\n", "");
}

static void test_sse_drops_an_event_without_its_end(void **state) {
    (void)state;
    check("data: a\n\ndata: b\n", "message=a;");
    check("data: a\n\ndata: b", "message=a;");
}

static void test_sse_bounds_an_event(void **state) {
    (void)state;
    static char line[64 * 1024];
    struct sse sse;
    memset(line, 'x', sizeof line);
    sse_init(&sse);
    enum err err = ERR_OK;
    size_t pushed = 0;
    while (err == ERR_OK && pushed < 2 * (size_t)SSE_EVENT_BYTES_MAX) {
        err = sse_push(&sse, line, sizeof line, take, NULL);
        pushed += sizeof line;
    }
    assert_int_equal(err, ERR_FULL);
    sse_done(&sse);
    sse_init(&sse);
    memcpy(line, "data:", 5);
    line[sizeof line - 1] = '\n';
    for (err = ERR_OK, pushed = 0; err == ERR_OK && pushed < 2 * (size_t)SSE_EVENT_BYTES_MAX;) {
        err = sse_push(&sse, line, sizeof line, take, NULL);
        pushed += sizeof line;
    }
    assert_int_equal(err, ERR_FULL);
    sse_done(&sse);
}

static enum err refuse(void *context, const struct sse_event *event) {
    (void)event;
    (*(int *)context)++;
    return err_fail(ERR_FORMAT, "refused");
}

static void test_sse_hands_on_the_error_of_the_taker(void **state) {
    (void)state;
    static const char text[] = "data: a\n\ndata: b\n\n";
    struct sse sse;
    int calls = 0;
    sse_init(&sse);
    assert_int_equal(sse_push(&sse, text, sizeof text - 1, refuse, &calls), ERR_FORMAT);
    assert_int_equal(calls, 1);
    sse_done(&sse);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sse_joins_the_data_of_an_event),
        cmocka_unit_test(test_sse_takes_every_line_break),
        cmocka_unit_test(test_sse_names_events_and_forgets_the_name),
        cmocka_unit_test(test_sse_skips_what_is_no_data),
        cmocka_unit_test(test_sse_drops_an_event_without_its_end),
        cmocka_unit_test(test_sse_bounds_an_event),
        cmocka_unit_test(test_sse_hands_on_the_error_of_the_taker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
