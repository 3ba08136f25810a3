#include "server/health.h"

#include "server/json_text.h"

enum err health_body(const struct server_snapshot *snapshot, int is_draining, const char *model,
                     struct buf *out, int *is_healthy) {
    int is_serving = snapshot->is_serving && !is_draining;
    int count = snapshot->reason_count < SERVER_SNAPSHOT_REASONS ? snapshot->reason_count
                                                                 : SERVER_SNAPSHOT_REASONS;
    const char *separator = "";
    TRY(buf_printf(out, "{\"status\":\"%s\",\"model\":", is_serving ? "ok" : "unavailable"));
    TRY(json_text_append_string(out, model));
    TRY(buf_printf(out, ",\"running\":%d,\"queued\":%d,\"reasons\":[", snapshot->running,
                   snapshot->queued));
    if (is_draining) {
        TRY(buf_append_text(out, "\"the server is stopping\""));
        separator = ",";
    }
    for (int i = 0; i < count; i++) {
        TRY(buf_append_text(out, separator));
        TRY(json_text_append_string(out, snapshot->reasons[i]));
        separator = ",";
    }
    TRY(buf_append_text(out, "]}"));
    *is_healthy = is_serving;
    return ERR_OK;
}
