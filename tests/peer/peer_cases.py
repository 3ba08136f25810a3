"""What is measured. Each case takes turns between the two servers, so that the noise of a shared machine
meets both, and returns its rows and every single sample.
"""
import threading

import chat_stream
import figures
from chat_stream import Failure
from word_text import WordText

GENERATED = 16             # tokens of an answer, where it is not what is measured
TEMPLATE_TOKENS = 15       # what a template puts around a message, and the odd word of two tokens
STREAM_TOKENS = 128
STREAM_PROMPT = 32
COMMIT_CONVERSATIONS = 10  # so that none grows long
COMMIT_NEW = 64
COMMIT_TOKENS = 32


def turn_text(words, tokens):
    return words.take(max(1, tokens - TEMPLATE_TOKENS))


def in_turns(index, first, second):
    """Calls both, one after the other, and the other first every second time; their results in order."""
    if index % 2 == 0:
        one = first()
        return one, second()
    two = second()
    return first(), two


class Bench:
    """PEER and TERN are endpoints; OPTIONS those of tests/peer/run; SAY prints progress."""

    def __init__(self, peer, tern, options, say=print):
        self.peer = peer
        self.tern = tern
        self.options = options
        self.say = say

    def words(self, case):
        """Texts of this case, the same for every order of cases."""
        return WordText(f"{self.options.seed}/{case}")

    def run(self, names):
        results = {}
        for name in names:
            self.say(f"== {name}")
            results[name] = CASES[name](self)
        return results


# --- the next turn of a conversation -----------------------------------------------------------

def run_turn(bench):
    words = bench.words("turn")
    history = turn_text(words, bench.options.history - GENERATED)
    peer, tern = bench.peer.converse(), bench.tern.converse()
    peer.say(history, GENERATED)
    tern.say(history, GENERATED)
    held = (peer.context_tokens, tern.context_tokens)
    samples = []
    for index in range(bench.options.rounds):
        text = turn_text(words, bench.options.new)
        peer_before, tern_before = peer.context_tokens, tern.context_tokens
        theirs, ours = in_turns(index, lambda: peer.say_warm(text, GENERATED),
                                lambda: tern.say(text, GENERATED, tiers=("device",)))
        samples.append({"peer": theirs.summary(), "tern": ours.summary(),
                        "peer_new_tokens": theirs.usage["prompt_tokens"] - peer_before,
                        "tern_new_tokens": ours.usage["prompt_tokens"] - tern_before})
    tern.end()
    new = figures.median([one["tern_new_tokens"] for one in samples])
    rows = [figures.row(f"next turn, {new:.0f} new tokens after {held[1]}", "s",
                        figures.median([one["peer"]["first_text_s"] for one in samples]),
                        figures.median([one["tern"]["first_text_s"] for one in samples]),
                        f"median of {len(samples)}")]
    return {"rows": rows, "samples": samples, "peer_history_tokens": held[0], "tern_history_tokens": held[1]}


# --- the first turn after a restart ------------------------------------------------------------

def restart_peer_cold(bench, history, text):
    bench.peer.restart()
    return history.say_cold(text, GENERATED, is_kept=False)


def restart_peer_restored(bench, history, text, file):
    """The reply, and the seconds of the restore in front of it."""
    bench.peer.restart()
    answer, seconds = bench.peer.move_slot("restore", history.slot, file)
    if answer.get("n_restored", 0) < 0.9 * history.context_tokens:
        raise Failure(f"the peer restored {answer.get('n_restored')} of {history.context_tokens} tokens")
    return history.say_warm(text, GENERATED, is_kept=False), seconds


def restart_tern(bench, conversation, text):
    bench.tern.restart()
    return conversation.say(text, GENERATED, tiers=("disk",), is_durable=True)


def restart_samples(bench, peer, tern, text, file):
    """One of each kind, the restarts of both taking turns."""
    cold = restart_peer_cold(bench, peer, text)
    before = tern.context_tokens
    ours = restart_tern(bench, tern, text)
    restored, restore_s = restart_peer_restored(bench, peer, text, file)
    return {"peer_cold": cold.summary(), "peer_restored": restored.summary(), "peer_restore_s": restore_s,
            "tern": ours.summary(), "tern_new_tokens": ours.usage["prompt_tokens"] - before}


def run_restart(bench):
    """For each number of new words: the peer cold, the peer by its own slot restore, tern."""
    words = bench.words("restart")
    history = turn_text(words, bench.options.restart_history - GENERATED)
    peer = bench.peer.converse(slot=0)
    peer.say(history, GENERATED)
    file = f"history-{bench.options.seed}.bin"
    saved, save_s = bench.peer.move_slot("save", peer.slot, file)
    result = {"rows": [], "samples": [], "peer_save": saved, "peer_save_s": save_s,
              "peer_history_tokens": peer.context_tokens}
    for is_word in (False, True):
        # A conversation of its own, since each turn makes tern's longer.
        tern = bench.tern.converse()
        tern.say(history, GENERATED, is_durable=True)
        result["tern_history_tokens"] = tern.context_tokens
        samples = []
        for _ in range(bench.options.restart_rounds):
            text = words.take(1) if is_word else turn_text(words, bench.options.new)
            samples.append(restart_samples(bench, peer, tern, text, file))
            bench.say(f"   {samples[-1]}")
        tern.end()
        result["samples"] += samples
        result["rows"] += restart_rows(samples, is_word, result["tern_history_tokens"])
    return result


def restart_rows(samples, is_word, history):
    new = figures.median([one["tern_new_tokens"] for one in samples])
    what = f"one word ({new:.0f} tokens)" if is_word else f"{new:.0f} new tokens"
    ours = figures.median([one["tern"]["first_text_s"] for one in samples])
    cold = figures.median([one["peer_cold"]["first_text_s"] for one in samples])
    restored = figures.median([one["peer_restore_s"] + one["peer_restored"]["first_text_s"] for one in samples])
    restore = figures.median([one["peer_restore_s"] for one in samples])
    note = f"median of {len(samples)}" if len(samples) > 1 else ""
    return [figures.row(f"after a restart, {what} after {history}: peer cold", "s", cold, ours, note),
            figures.row(f"after a restart, {what} after {history}: peer's slot restore", "s", restored, ours,
                        f"of which the restore itself {figures.show(restore, 's')}")]


# --- many conversations over little memory -----------------------------------------------------

class SwapWorkers:
    """Sends one turn of each conversation, IN_FLIGHT at a time."""

    def __init__(self, conversations, texts, in_flight):
        self.work = list(zip(conversations, texts))[::-1]
        self.lock = threading.Lock()
        self.replies = []
        self.failures = []
        threads = [threading.Thread(target=self.send, daemon=True) for _ in range(in_flight)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def send(self):
        while True:
            with self.lock:
                if not self.work or self.failures:
                    return
                conversation, text = self.work.pop()
            try:
                reply = conversation.say(text, GENERATED)
            except Exception as failure:  # a thread's end must not pass for success
                self.failures.append(failure)
                return
            with self.lock:
                self.replies.append(reply)


def tier_counts(replies):
    tiers = [reply.tern["tier"] for reply in replies]
    return ", ".join(f"{tiers.count(tier)} from {tier}" for tier in ("device", "host", "disk", "none") if tier in tiers)


def run_swap(bench):
    words = bench.words("swap")
    options = bench.options
    theirs = [bench.peer.converse() for _ in range(options.conversations)]
    ours = [bench.tern.converse() for _ in range(options.conversations)]
    result = {"rows": [], "samples": []}
    for turn in range(1, options.turns + 1):
        texts = [turn_text(words, options.swap_new) for _ in range(options.conversations)]
        peer, tern = in_turns(turn - 1, lambda: SwapWorkers(theirs, texts, options.in_flight).replies,
                              lambda: SwapWorkers(ours, texts, options.in_flight).replies)
        for reply in tern:
            expected = "none" if turn == 1 else ("device", "host", "disk")
            if reply.tern["tier"] not in expected:
                raise Failure(f"tern: turn {turn} came from {reply.tern['tier']!r}")
        peer_s, tern_s = ([reply.first_text_s for reply in replies] for replies in (peer, tern))
        tokens = figures.median([reply.usage["prompt_tokens"] for reply in tern])
        note = f"{tokens:.0f} tokens; tern's state: {tier_counts(tern)}"
        result["rows"] += [figures.row(f"turn {turn} of {options.conversations} conversations, median", "s",
                                       figures.median(peer_s), figures.median(tern_s), note),
                           figures.row(f"turn {turn} of {options.conversations} conversations, p95", "s",
                                       figures.percentile(peer_s, 0.95), figures.percentile(tern_s, 0.95))]
        result["samples"].append({"turn": turn, "peer": [reply.summary() for reply in peer],
                                  "tern": [reply.summary() for reply in tern]})
        bench.say(f"   turn {turn}: median {figures.median(peer_s):.3f} s and {figures.median(tern_s):.3f} s")
    for conversation in ours:
        conversation.end()
    return result


# --- decode rate -------------------------------------------------------------------------------

def rate_while_most_run(replies):
    """
    (tokens/s, streams): over the time in which as many streams as ever were between their first and last text.
    A chunk of text counts as its share of the answer's tokens.
    """
    marks = sorted({time for reply in replies for time in (reply.text_times[0], reply.text_times[-1])})
    spans = [(begin, end, sum(reply.text_times[0] <= begin and end <= reply.text_times[-1] for reply in replies))
             for begin, end in zip(marks, marks[1:])]
    most = max(running for _, _, running in spans)
    spans = [(begin, end) for begin, end, running in spans if running == most]
    tokens = sum(reply.usage["completion_tokens"] / len(reply.text_times)
                 for reply in replies for time in reply.text_times
                 if any(begin < time <= end for begin, end in spans))
    return tokens / sum(end - begin for begin, end in spans), most


def decode_streams(endpoint, prompts):
    conversations = [endpoint.converse() for _ in prompts]
    replies = []
    failures = []

    def send(conversation, prompt):
        try:
            replies.append(conversation.say(prompt, STREAM_TOKENS))
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=send, args=pair, daemon=True) for pair in zip(conversations, prompts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    for conversation in conversations:
        conversation.end()
    rate, streams = rate_while_most_run(replies)
    first = min(reply.text_times[0] for reply in replies)
    last = max(reply.text_times[-1] for reply in replies)
    return {"tokens_per_second": rate, "streams_at_once": streams,
            "whole_tokens_per_second": sum(reply.usage["completion_tokens"] for reply in replies) / (last - first)}


def run_streams(bench):
    words = bench.words("streams")
    result = {"rows": [], "samples": []}
    for streams in bench.options.streams:
        samples = []
        for index in range(bench.options.stream_rounds):
            prompts = [turn_text(words, STREAM_PROMPT) for _ in range(streams)]
            peer, tern = in_turns(index, lambda: decode_streams(bench.peer, prompts),
                                  lambda: decode_streams(bench.tern, prompts))
            if tern["streams_at_once"] != streams:
                raise Failure(f"tern ran {tern['streams_at_once']} of {streams} streams at once: its --device-memory "
                              "is too small for so many")
            samples.append({"streams": streams, "peer": peer, "tern": tern})
        name = "decode alone" if streams == 1 else f"decode, {streams} requests"
        at_once = samples[-1]["peer"]["streams_at_once"]
        note = "" if at_once == streams else f"the peer ran {at_once} at once"
        result["rows"].append(figures.row(
            name, "tokens/s", figures.median([one["peer"]["tokens_per_second"] for one in samples]),
            figures.median([one["tern"]["tokens_per_second"] for one in samples]), note))
        result["samples"] += samples
    return result


# --- the end of a turn -------------------------------------------------------------------------

def run_commit(bench):
    """tern alone: from the last text to the chunk behind the commit, as a share of the turn."""
    words = bench.words("commit")
    before = bench.tern.metrics()
    conversations = [bench.tern.converse() for _ in range(min(COMMIT_CONVERSATIONS, bench.options.commit_turns))]
    replies = [conversations[index % len(conversations)].say(turn_text(words, COMMIT_NEW), COMMIT_TOKENS)
               for index in range(bench.options.commit_turns)]
    after = bench.tern.metrics()
    for conversation in conversations:
        conversation.end()
    counted = after["tern_turns_committed_total"] - before["tern_turns_committed_total"]
    if counted != len(replies):
        raise Failure(f"tern counted {counted:.0f} commits of {len(replies)} turns")
    seconds = [reply.commit_s for reply in replies]
    shares = [reply.commit_s / reply.total_s for reply in replies]
    rows = [figures.row(f"last text to the final chunk, {name}", "s", None, pick(seconds), f"{len(replies)} turns")
            for name, pick in PICKS]
    rows += [figures.row(f"share of the turn's time, {name}", "share", None, pick(shares)) for name, pick in PICKS]
    ledger = [reply.tern["commit_ms"] / 1e3 for reply in replies]
    rows += [figures.row(f"last token to the ledger's answer, {name}", "s", None, pick(ledger)) for name, pick in PICKS]
    return {"rows": rows, "samples": [dict(reply.summary(), commit_s=reply.commit_s) for reply in replies]}


PICKS = (("median", figures.median), ("p99", lambda values: figures.percentile(values, 0.99)))
CASES = {"turn": run_turn, "restart": run_restart, "swap": run_swap, "streams": run_streams, "commit": run_commit}
