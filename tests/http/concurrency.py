#!/usr/bin/env python3
"""Many clients over many conversations on one server, for a sanitizer's build to watch.

usage: tests/http/concurrency.py [--seconds N] [--seed S] [--tern BINARY]

Clients pick conversations at random: turns streamed and not, two clients at once on one conversation,
clients that leave in mid-stream, deletions. Every turn that was answered must be in the ledger once,
with its text and as many ids as the answer said; nothing else may be there. The server must end with
status 0 after SIGTERM and its standard error hold no sanitizer's report.

Prints what happened, then `N passed, N failed`: checks.
"""
import argparse
import collections
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

import serving

CLIENTS = 32
CONVERSATIONS = 64
TOKENS_MAX = 12
TURNS_MAX = 150   # then the conversation is deleted: prompts stay short
ANSWER_S = 120    # under a sanitizer, on a machine with much else to do


class Conversation:
    """What is known of it. Whoever holds the lock is the only client, but for a duel's second."""

    def __init__(self, name):
        self.name = name
        self.lock = threading.Lock()
        self.turns = []     # (text sent, Answer)
        self.maybe = None   # the same of a turn whose client left: committed or not


class Run:
    def __init__(self, server, seed):
        self.server = server
        self.seed = seed
        self.conversations = [Conversation(f"conversation {i}") for i in range(CONVERSATIONS)]
        self.failures = []
        self.counts = collections.Counter()
        self.counts_lock = threading.Lock()
        self.until = 0.0

    def count(self, what):
        with self.counts_lock:
            self.counts[what] += 1

    # --- one client --------------------------------------------------------------------

    def client(self, number):
        r = random.Random(f"{self.seed}/{number}")
        try:
            while time.monotonic() < self.until and not self.failures:
                one = r.choice(self.conversations)
                if one.lock.acquire(blocking=False):
                    try:
                        self.act(one, r)
                    finally:
                        one.lock.release()
        except serving.Failure as failure:
            self.failures.append(str(failure))
        except Exception as error:  # a thread's end must not pass for success
            self.failures.append(f"{type(error).__name__}: {error}")

    def act(self, one, r):
        draw = r.random()
        self.settle(one)
        if draw < 0.02 or len(one.turns) >= TURNS_MAX:
            self.delete(one)
        elif draw < 0.10:
            self.duel(one, r)
        elif draw < 0.16:
            self.leave(one, r)
        elif draw < 0.20:
            self.vanish(one, r)
        else:
            self.keep(one, *self.send(one, r, len(one.turns)))

    def send(self, one, r, expected_turn, **options):
        """(text, Answer); full queues are waited for."""
        text = f"I like {r.choice(('red', 'tea', 'Oslo', 'chess'))} and {r.randrange(1000)}."
        fields = {"max_tokens": r.randint(1, TOKENS_MAX), "stream": r.random() < 0.7,
                  "conversation_expected_turn": expected_turn}
        if r.random() < 0.1:
            fields["conversation_durability"] = "state"
        fields.update(options.pop("fields", {}))
        while True:
            answer = serving.chat(self.server, serving.turn_body(one.name, text, **fields), timeout_s=ANSWER_S,
                                  **options)
            if answer.status != 429:
                return text, answer
            self.count("429, sent again")
            time.sleep(int(answer.headers["retry-after-ms"]) / 1000)

    def keep(self, one, text, answer):
        answer.expect(f"{one.name} turn {len(one.turns) + 1}")
        one.turns.append((text, answer))
        if answer.tern["turn"] != len(one.turns):
            raise serving.Failure(f"{one.name}: answered as turn {answer.tern['turn']}, expected {len(one.turns)}")
        self.count("turns")

    def delete(self, one):
        status = self.server.delete(one.name)
        if status != (200 if one.turns else 404):
            raise serving.Failure(f"{one.name} of {len(one.turns)} turns: DELETE says {status}")
        one.turns = []
        self.count("deletions")

    def duel(self, one, r):
        """Two requests with one expected turn: one is answered, the other refused."""
        results = []
        second = threading.Thread(target=lambda: results.append(
            self.send(one, random.Random(r.random()), len(one.turns))))
        second.start()
        results.append(self.send(one, r, len(one.turns)))
        second.join()
        winners = [result for result in results if result[1].status == 200]
        losers = [result[1] for result in results if result[1].status != 200]
        if len(winners) != 1 or losers[0].status != 409 or \
                losers[0].error["code"] not in ("conversation_busy", "conversation_turn_conflict"):
            raise serving.Failure(f"{one.name}: two at once were answered with "
                                  f"{[(result[1].status, result[1].error, result[1].lost) for result in results]}")
        self.count("duels: " + losers[0].error["code"])
        self.keep(one, *winners[0])

    def leave(self, one, r):
        """Leaves after some text. The turn may be committed nevertheless, if it was at its end."""
        texts = r.randint(1, 4)
        seen = []
        text, answer = self.send(one, r, len(one.turns), on_text=lambda _: seen.append(1) or len(seen) >= texts,
                                 fields={"stream": True, "max_tokens": 4 * TOKENS_MAX})
        if answer.is_done:
            self.keep(one, text, answer)
        elif answer.status == 200 and not answer.error and not answer.lost:
            one.maybe = (text, answer)
            self.count("left in mid-stream")
        else:
            answer.expect(one.name)

    def vanish(self, one, r):
        """Sends a turn and closes the connection, wherever the turn is by then."""
        text = "I like tea. " * r.choice((1, 1, 20, 200))
        body = serving.turn_body(one.name, text, max_tokens=r.randint(1, 4 * TOKENS_MAX), stream=r.random() < 0.3,
                                 conversation_expected_turn=len(one.turns))
        held = serving.send_and_hold(self.server, body)
        time.sleep(r.choice((0.0, 0.001, 0.01, 0.1)))
        held.close()
        time.sleep(0.05)  # what was sent is read before the question that settles it
        one.maybe = (text, serving.Answer())
        self.count("vanished")

    def settle(self, one):
        """Whether the turn that a client left was committed: asked once the lease is free."""
        if one.maybe is None:
            return
        until = time.monotonic() + ANSWER_S
        while True:
            # A turn number that cannot be: refused with the committed one before any work.
            body = serving.turn_body(one.name, "?", max_tokens=1, conversation_expected_turn=10 ** 6)
            answer = serving.chat(self.server, body, timeout_s=ANSWER_S)
            code = (answer.error or {}).get("code")
            if code not in ("conversation_busy", "queue_full") or time.monotonic() > until:
                break
            time.sleep(0.02)
        committed = {"conversation_turn_conflict": lambda: answer.error["committed_turn"],
                     "conversation_not_found": lambda: 0}.get(code, lambda: -1)()
        if committed == len(one.turns) + 1:
            one.turns.append(one.maybe)
            self.count("left or vanished, and committed")
        elif committed != len(one.turns):
            raise serving.Failure(f"{one.name}: at {len(one.turns)} turns a client left; now {answer.error}")
        one.maybe = None

    # --- before and after --------------------------------------------------------------

    def check_busy(self):
        """While one request streams, another one on its conversation is refused, and a third is not."""
        r = random.Random(self.seed)
        one, other = self.conversations[:2]
        refused = []

        def intrude(_):
            if not refused:
                refused.append(serving.chat(self.server, serving.turn_body(one.name, "And I?", max_tokens=1)))
                self.keep(other, *self.send(other, r, len(other.turns)))

        self.keep(one, *self.send(one, r, 0, on_text=intrude, fields={"stream": True, "max_tokens": 400}))
        answer = refused[0]
        if answer.status != 409 or answer.error["code"] != "conversation_busy" or \
                int(answer.headers["Retry-After"]) < 1 or int(answer.headers["retry-after-ms"]) < 1:
            raise serving.Failure(f"a second request while the first one streams: {answer.status} {answer.error}")

    def check_ledger(self, tern, store):
        listed = {one["id"]: one["turns"] for one in serving.inspect(tern, store)["conversations"]}
        known = {one.name: len(one.turns) for one in self.conversations if one.turns}
        if listed != known:
            differing = {name: (listed.get(name), known.get(name)) for name in listed.keys() | known.keys()
                         if listed.get(name) != known.get(name)}
            raise serving.Failure(f"turns in the ledger and turns answered differ: {differing}")
        for one in self.conversations:
            if one.turns:
                self.check_line(one, serving.inspect_turns(tern, store, one.name))

    @staticmethod
    def check_line(one, turns):
        length = 0
        for (text, answer), turn in zip(one.turns, turns, strict=True):
            sent, said = turn["messages"]
            length += len(turn["prompt_ids"])
            is_right = sent == {"role": "user", "content": text} and said["content"].startswith(answer.text)
            if answer.is_done:
                is_right = is_right and said["content"] == answer.text and \
                    length == answer.usage["prompt_tokens"] and \
                    len(turn["generated_ids"]) == answer.usage["completion_tokens"]
            if not is_right:
                raise serving.Failure(f"{one.name} turn {turn['turn']}: sent {text!r}, read {answer.text!r} "
                                      f"{answer.usage}; in the ledger {turn}")
            length += len(turn["generated_ids"])


def check(run, name, act):
    """1 if it failed."""
    try:
        act()
        print(f"ok   {name}")
        return 0
    except (serving.Failure, OSError) as failure:
        print(f"FAIL {name}: {failure}")
        return 1


def hold_conversations(run, seconds):
    run.until = time.monotonic() + seconds
    threads = [threading.Thread(target=run.client, args=(i,), daemon=True) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 2 * ANSWER_S)
        if thread.is_alive():
            raise serving.Failure("a client still waits for its answer")
    for one in run.conversations:
        run.settle(one)
    if run.failures:
        raise serving.Failure("; ".join(run.failures[:5]))
    if run.counts["turns"] < CONVERSATIONS:
        raise serving.Failure(f"only {run.counts['turns']} turns in {seconds} s")


def check_idle(server):
    for gauge in ("tern_leases", "tern_requests_running", "tern_requests_queued"):
        server.await_metric(gauge, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tern", default=serving.ROOT / "build/dev/tern")
    options = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tern-concurrency-"))
    failed = 0
    try:
        with serving.Server(options.tern, directory / "store") as server:
            run = Run(server, options.seed)
            checks = [("one lease for each conversation", run.check_busy),
                      (f"{CLIENTS} clients over {CONVERSATIONS} conversations",
                       lambda: hold_conversations(run, options.seconds)),
                      ("slots and leases are free", lambda: check_idle(server)),
                      ("SIGTERM ends with status 0 and without a report", lambda: server.drain(ANSWER_S)),
                      ("no turn is lost or doubled", lambda: run.check_ledger(options.tern, directory / "store"))]
            for name, act in checks:
                failed += check(run, name, act)
        print(", ".join(f"{name} {count}" for name, count in sorted(run.counts.items())))
        if failed:
            print(f"seed {options.seed}; the server said:\n{server.errors()}")
    except serving.Failure as failure:
        print(f"FAIL {failure}")
        print("0 passed, 1 failed")
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
