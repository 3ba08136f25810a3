#include "server/metrics.h"

#include <inttypes.h>

void metrics_count_request(struct metrics *metrics, int route, int code) {
    assert(route >= 0 && route < METRICS_ROUTES_MAX);
    for (int i = 0; i < METRICS_CODES_MAX; i++) {
        struct metrics_code *entry = &metrics->codes[i];
        if (entry->code == 0) {
            entry->code = code;
        }
        if (entry->code == code) {
            entry->counts[route]++;
            return;
        }
    }
}

static enum err render_requests(const struct metrics *metrics, const char *const *route_names,
                                struct buf *out) {
    TRY(buf_append_text(out, "# HELP tern_http_requests_total Requests by route and status; code "
                             "499: the client went away first.\n"
                             "# TYPE tern_http_requests_total counter\n"));
    for (int i = 0; i < METRICS_CODES_MAX && metrics->codes[i].code != 0; i++) {
        for (int route = 0; route < METRICS_ROUTES_MAX; route++) {
            if (metrics->codes[i].counts[route] > 0) {
                TRY(buf_printf(
                    out, "tern_http_requests_total{route=\"%s\",code=\"%d\"} %" PRIu64 "\n",
                    route_names[route], metrics->codes[i].code, metrics->codes[i].counts[route]));
            }
        }
    }
    return ERR_OK;
}

static enum err render_histogram(const struct histogram *histogram, const char *name,
                                 const char *help, struct buf *out) {
    uint64_t total = 0;
    TRY(buf_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name));
    for (int i = 0; i < HISTOGRAM_BOUNDS; i++) {
        total += histogram->buckets[i];
        TRY(buf_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, histogram_bounds_s[i],
                       total));
    }
    return buf_printf(out,
                      "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %.6f\n%s_count %" PRIu64 "\n",
                      name, histogram->count, name, histogram->sum_s, name, histogram->count);
}

struct plain {
    const char *name;
    const char *type;
    const char *help;
    uint64_t value;
};

static enum err render_plain(const struct plain *plain, struct buf *out) {
    return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", plain->name, plain->help,
                      plain->name, plain->type, plain->name, plain->value);
}

static enum err render_engine(const struct server_snapshot *snapshot, struct buf *out) {
    const struct plain all[] = {
        {"tern_serving", "gauge", "1 while turns are served.", snapshot->is_serving != 0},
        {"tern_tokens_run_total", "counter", "Tokens that went through the model.",
         snapshot->tokens_run},
        {"tern_tokens_generated_total", "counter", "Tokens that were sampled.",
         snapshot->tokens_generated},
        {"tern_steps_total", "counter", "Steps of the engine.", snapshot->steps},
        {"tern_requests_set_aside_total", "counter",
         "Times that a running request made room and went on later.", snapshot->set_aside},
        {"tern_requests_queued", "gauge", "Requests that wait for the engine.",
         (uint64_t)snapshot->queued},
        {"tern_requests_running", "gauge", "Requests that compute.", (uint64_t)snapshot->running},
        {"tern_turns_committed_total", "counter", "Turns in the ledger since the start.",
         snapshot->turns_committed},
        {"tern_turns_failed_total", "counter", "Turns that failed.", snapshot->turns_failed},
        {"tern_turns_cancelled_total", "counter", "Turns whose client went away.",
         snapshot->turns_cancelled},
        {"tern_lookup_misses_total", "counter", "Known conversations without a usable head.",
         snapshot->misses},
        {"tern_rebuilds_total", "counter", "Heads computed again from token ids.",
         snapshot->rebuilds},
        {"tern_leases", "gauge", "Conversations that a request holds.", (uint64_t)snapshot->leases},
        {"tern_spills_total", "counter", "Heads written to disk.", snapshot->spills},
        {"tern_spills_dropped_total", "counter", "Spills of heads superseded while queued.",
         snapshot->spills_dropped},
        {"tern_spills_refused_total", "counter", "Spills for which the disk had no room.",
         snapshot->spills_refused},
        {"tern_spill_bytes_total", "counter", "Bytes written by spills.", snapshot->spill_bytes},
        {"tern_spill_lag_bytes", "gauge", "Committed state that is not on disk yet.",
         snapshot->spill_lag_bytes},
        {"tern_spill_lag_milliseconds", "gauge", "Age of the oldest such state.",
         snapshot->spill_lag_ms},
        {"tern_quarantined_total", "counter", "Objects refused and set aside.",
         snapshot->quarantined},
        {"tern_ledger_bytes", "gauge", "Bytes of the ledger in use.", snapshot->ledger_used_bytes},
        {"tern_ledger_max_bytes", "gauge", "Bytes that the ledger may grow to.",
         snapshot->ledger_max_bytes},
        {"tern_ledger_commits_total", "counter", "Turns committed.", snapshot->ledger_commits},
        {"tern_ledger_groups_total", "counter", "Transactions that these commits shared.",
         snapshot->ledger_groups},
        {"tern_conversations", "gauge", "Conversations in the ledger.", snapshot->conversations},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        TRY(render_plain(&all[i], out));
    }
    return ERR_OK;
}

static enum err render_tiers(const struct server_snapshot *snapshot, struct buf *out) {
    static const char *const names[] = {"device", "host", "disk"};
    static const struct {
        const char *name;
        const char *type;
        const char *help;
        size_t offset;
    } all[] = {
        {"tern_tokens_reused_total", "counter", "Tokens that were attached and not run again.",
         offsetof(struct server_snapshot_level, tokens_reused)},
        {"tern_heads_attached_total", "counter", "Heads attached, by the tier they came from.",
         offsetof(struct server_snapshot_level, attached)},
        {"tern_tier_bytes", "gauge", "Bytes in use.",
         offsetof(struct server_snapshot_level, used_bytes)},
        {"tern_tier_max_bytes", "gauge", "The cap.",
         offsetof(struct server_snapshot_level, max_bytes)},
        {"tern_tier_heads", "gauge", "Heads that are held.",
         offsetof(struct server_snapshot_level, heads)},
        {"tern_evictions_total", "counter", "Heads evicted.",
         offsetof(struct server_snapshot_level, evictions)},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        TRY(buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", all[i].name, all[i].help, all[i].name,
                       all[i].type));
        for (int tier = 0; tier < SERVER_SNAPSHOT_TIERS; tier++) {
            const char *level = (const char *)&snapshot->tiers[tier];
            TRY(buf_printf(out, "%s{tier=\"%s\"} %" PRIu64 "\n", all[i].name, names[tier],
                           *(const uint64_t *)(const void *)(level + all[i].offset)));
        }
    }
    return ERR_OK;
}

enum err metrics_render(const struct metrics *metrics, const char *const *route_names,
                        const struct server_snapshot *snapshot, struct buf *out) {
    const struct plain own[] = {
        {"tern_http_connections", "gauge", "Open connections.", (uint64_t)metrics->connections},
        {"tern_http_exchanges", "gauge", "Requests whose answer is not whole.",
         (uint64_t)metrics->busy},
        {"tern_http_clients_gone_total", "counter",
         "Clients that went away before their answer was whole.", metrics->clients_gone},
    };
    TRY(render_requests(metrics, route_names, out));
    TRY(render_histogram(&metrics->request_seconds, "tern_chat_request_seconds",
                         "Chat completions from request head to last byte.", out));
    TRY(render_histogram(&metrics->first_text_seconds, "tern_chat_first_text_seconds",
                         "Chat completions from request to first text.", out));
    TRY(render_histogram(&snapshot->ledger_commit_seconds, "tern_ledger_commit_seconds",
                         "Transactions of the ledger, until they are on disk.", out));
    TRY(render_histogram(&snapshot->turn_commit_seconds, "tern_turn_commit_seconds",
                         "Turns from their last token to the ledger's answer.", out));
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        TRY(render_plain(&own[i], out));
    }
    TRY(render_engine(snapshot, out));
    return render_tiers(snapshot, out);
}
