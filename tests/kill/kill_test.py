#!/usr/bin/env python3
"""Kills a server again and again, and checks each time that its store holds what it must.

usage: tests/kill/kill_test.py [--rounds N] [--seed S] [--life L] [--tern BINARY] [--keep]

A round: clients hold conversations; the server is killed, at a named place (TERN_FAULT; needs a build
with TERN_FAULTS) or by SIGKILL at a random moment; it is started again; the ledger is compared with
what the clients were told, and each conversation that they touched goes on by one turn, whose logits
must be those of a server that never crashed. ROUNDS_OF_LIFE rounds share a store: a life. A failure
names its life, and --seed S --life L draws the same conversations and kills once more.

Prints where the kills fell, then `N passed, N failed`: rounds.
"""
import argparse
import concurrent.futures
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http"))

import oracle as kill_oracle  # noqa: E402
import replay  # noqa: E402
import serving  # noqa: E402
import traffic  # noqa: E402

ROUNDS_OF_LIFE = 10
CLIENTS = 3
CONVERSATIONS_OF_CLIENT = 2
TRAFFIC_S = 8     # a named place that was not passed by then is not waited for
HOUSEKEEPING_S = 1.2  # the server removes what was deleted once a second
FLAGS = ("--threads", "2")

# Named places in turn: (names, of which one at a time, the highest pass to kill at, the row of the tally).
PLACES = (
    (("engine.prefill",), 8, "prefill"),
    (("ledger.append.turn_put",), 6, "in the ledger commit"),
    (("spill.before",), 5, "before the spill transaction"),
    (("turn.published",), 6, "committed, final chunk unsent"),
    (("promote.in",), 8, "promote"),
    (("engine.decode",), 60, "decode"),
    (("spill.commit.before",), 5, "in the spill transaction"),
    (("ledger.commit.before",), 6, "in the ledger commit"),
    (("promote.before",), 4, "promote"),
    (("spill.commit.after",), 5, "after the spill transaction"),
    (("turn.committed",), 6, "committed, final chunk unsent"),
    (("ledger.commit.after",), 6, "in the ledger commit"),
    (("promote.after",), 4, "promote"),
    (("collect.before", "collect.after"), 4, "collection of what was superseded"),
    (("ledger.delete.tombstone_put", "delete.before", "ledger.purge.before", "delete.after"), 2, "deletion"),
)
DELETION_SHARE = 0.02   # of what clients do
DELETION_SHARE_AT_DELETION = 0.4
ROWS = ("prefill", "decode", "in the ledger commit", "committed, final chunk unsent", "before the spill transaction",
        "in the spill transaction", "after the spill transaction", "promote", "collection of what was superseded",
        "deletion", "idle")
ROW_MIN = 10      # of each row, in a run of FULL_ROUNDS or more
FULL_ROUNDS = 200


class Tally:
    def __init__(self):
        self.named = dict.fromkeys(ROWS, 0)
        self.random = dict.fromkeys(ROWS, 0)
        self.places = {name: 0 for names, _, _ in PLACES for name in names}
        self.missed = 0
        self.counts = dict.fromkeys(("acknowledged turns found", "turns in flight, found whole",
                                     "turns in flight, not there", "deletions in flight, gone",
                                     "deletions in flight, all there", "digests equal to the oracle's",
                                     "heads whose spill had committed", "of these restored from disk",
                                     "restored from an older head", "rebuilt from token ids",
                                     "conversations replayed in one run"), 0)

    def show(self):
        print(f"\n{'the kill fell':<36}{'named':>7}{'random':>8}{'all':>6}")
        for row in ROWS:
            print(f"{row:<36}{self.named[row]:>7}{self.random[row]:>8}{self.named[row] + self.random[row]:>6}")
        print(f"{'(named place not passed in time)':<36}{self.missed:>7}")
        print("\nby name: " + ", ".join(f"{name} {count}" for name, count in self.places.items()))
        for name, count in self.counts.items():
            print(f"{name:<36}{count:>7}")

    def short_rows(self):
        return [row for row in ROWS if self.named[row] + self.random[row] < ROW_MIN]


class Plan:
    """What round NUMBER of the whole run does: three of four kills are at named places, in turn."""

    def __init__(self, seed, number):
        self.r = random.Random(f"{seed}/{number}")
        self.place = None   # or (name, row)
        self.is_idle = False
        self.deletion_share = DELETION_SHARE
        if number % 4 != 3:
            cycle, index = divmod(number - number // 4, len(PLACES))
            names, passes_max, row = PLACES[index]
            self.place = (names[cycle % len(names)], row)
            self.passes = self.r.randint(1, passes_max)
            self.deletion_share = DELETION_SHARE_AT_DELETION if row == "deletion" else DELETION_SHARE
        else:
            self.is_idle = number // 4 % 3 == 0
            self.delay_s = self.r.uniform(0.0, 0.3) if self.is_idle else self.r.uniform(0.01, 0.7)
        self.keeps_server = self.place is None and self.r.random() < 0.5

    def fault(self):
        return f"kill:{self.place[0]}:{self.passes}" if self.place else None

    def __str__(self):
        if self.place:
            return f"{self.place[0]} pass {self.passes}"
        return f"SIGKILL {'idle' if self.is_idle else 'random'} after {self.delay_s:.3f} s"


class Life:
    """One store from its making on, and what its clients know."""

    def __init__(self, options, number, oracle, tally, directory):
        self.options = options
        self.number = number
        self.oracle = oracle
        self.tally = tally
        self.store = directory / f"life-{number}"
        self.server = None
        self.conversations = []
        self.spares = 0
        self.r = random.Random(f"{options.seed}/life/{number}")

    def start(self, fault=None):
        self.server = serving.Server(self.options.tern, self.store, *FLAGS, fault=fault)

    def begin(self):
        """Something to promote for the first round."""
        self.start()
        shares = [[self._open() for _ in range(CONVERSATIONS_OF_CLIENT)] for _ in range(CLIENTS)]
        traffic.Clients(self.server, shares, f"{self.options.seed}/begin/{self.number}",
                        CONVERSATIONS_OF_CLIENT).join()
        self.server.drain()

    def replay(self):
        """One cold run over each conversation has its argmax at every generated token."""
        for one in self.conversations:
            if one.turns:
                turns = serving.inspect_turns(self.options.tern, self.store, one.name)
                replay.check(self.options.tern, self.store, turns)
                self.tally.counts["conversations replayed in one run"] += 1

    def check_no_orphans(self):
        """State of what was deleted is gone once the server had the time."""
        self.server.drain()
        for head in serving.inspect(self.options.tern, self.store, "--heads")["heads"]:
            if head["conversation"] is None:
                raise serving.Failure(f"state of a conversation that is not in the ledger: {head}")

    def end(self):
        if self.server is not None:
            self.server.kill()

    def _open(self):
        conversation = traffic.Conversation(f"life {self.number} no {len(self.conversations) + 1}")
        self.conversations.append(conversation)
        return conversation

    def shares(self):
        """Each client's conversations: not too long ones, and now and then a new one."""
        open_ones = [one for one in self.conversations if len(one.turns) < 24]
        self.r.shuffle(open_ones)
        shares = []
        for _ in range(CLIENTS):
            share = [open_ones.pop() if open_ones else self._open() for _ in range(CONVERSATIONS_OF_CLIENT)]
            if self.r.random() < 0.2:
                share.append(self._open())
            shares.append(share)
        return shares

    # --- a round -----------------------------------------------------------------------

    def run(self, plan, number):
        if self.server is None or not self.server.is_running():
            self.start(plan.fault())
        shares = self.shares()
        row = self.kill_in_traffic(plan, shares, f"{self.options.seed}/{number}")
        touched = [one for share in shares for one in share]
        heads = self.heads_on_disk()
        self.start()
        self.check_list()
        before = self.server.metrics()["tern_tokens_run_total"]
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            checks = [pool.submit(self.check, one, heads.get(one.name, {})) for one in touched]
            lost = [check.result() for check in checks]
        run = self.server.metrics()["tern_tokens_run_total"] - before
        expected = sum(one.turns[-1].answer.tern["tokens_run"] for one in touched)
        if run != expected:
            raise serving.Failure(f"tern_tokens_run_total rose by {run}, the responses say {expected}")
        return row or self.row_of(plan, lost)

    def kill_in_traffic(self, plan, shares, seed):
        """The row of the tally, or None where only the ledger tells it."""
        clients = traffic.Clients(self.server, shares, seed, self.r.randint(1, 4) if plan.is_idle else None,
                                  plan.deletion_share)
        if plan.place:
            return self.await_named_kill(plan, clients)
        if plan.is_idle:
            clients.join()
            time.sleep(plan.delay_s)
        else:
            time.sleep(plan.delay_s)
        self.server.kill()
        clients.join()
        return "idle" if plan.is_idle else None

    def await_named_kill(self, plan, clients):
        name, row = plan.place
        until = time.monotonic() + TRAFFIC_S
        while self.server.is_running() and time.monotonic() < until and not clients.failures:
            time.sleep(0.005)
        was_missed = self.server.is_running()
        if self.server.kill() != -signal.SIGKILL:
            raise serving.Failure(f"the server ended with {self.server.process.returncode} before the kill\n"
                                  + self.server.errors())
        clients.join()
        if was_missed:
            self.tally.missed += 1
            return None
        self.tally.places[name] += 1
        return row

    @staticmethod
    def row_of(plan, lost):
        """Where a kill at a random moment fell, as far as clients and ledger tell: the latest stage."""
        for row in ("committed, final chunk unsent", "decode", "prefill"):
            if row in lost:
                return row
        return "idle"

    # --- what must hold ----------------------------------------------------------------

    def heads_on_disk(self):
        """{conversation: {turn: length}} of the turn-end heads that a committed spill left."""
        heads = {}
        for head in serving.inspect(self.options.tern, self.store, "--heads")["heads"]:
            if head["kind"] == "turn-end" and head["is_complete"]:
                heads.setdefault(head["conversation"], {})[head["turn"]] = head["length"]
        return heads

    def check_list(self):
        """Every conversation with as many turns as it must have, and no other."""
        found = {one["id"]: one["turns"]
                 for one in serving.inspect(self.options.tern, self.store)["conversations"]}
        for one in self.conversations:
            allowed = {0 if one.is_deleting else len(one.turns), len(one.turns) + (one.in_flight is not None)}
            turns = found.pop(one.name, 0)
            if turns not in allowed:
                raise serving.Failure(f"{one.name}: {turns} turns in the ledger, expected one of {sorted(allowed)}")
        if found:
            raise serving.Failure(f"conversations in the ledger that nobody began: {found}")

    def check(self, one, heads):
        """The conversation's ledger against what its client knows, then one turn more."""
        turns = self.ledger_turns(one)
        if one.is_deleting:
            self.tally.counts["deletions in flight, gone" if not turns else "deletions in flight, all there"] += 1
            one.settle_deletion(is_gone=not turns)
        row = self.settle_in_flight(one, turns)
        self.compare(one, turns)
        r = random.Random(f"{one.name}/{len(one.turns)}")
        probe = one.in_flight.again() if one.in_flight else traffic.Turn(r, tokens_max=6)
        one.in_flight = None
        length, durable_turn = len(serving.line_of(turns)), one.durable_turn
        if not one.send(self.server, probe):
            raise serving.Failure(f"{one.name}: the turn behind the restart was lost: {probe.answer.lost}")
        self.check_restored(one, heads, length, durable_turn)
        self.check_digest(one, len(one.turns))
        return row

    def ledger_turns(self, one):
        if not one.turns or one.is_deleting:
            listed = serving.inspect(self.options.tern, self.store)["conversations"]
            if one.name not in [entry["id"] for entry in listed]:
                return []
        return serving.inspect_turns(self.options.tern, self.store, one.name)

    def settle_in_flight(self, one, turns):
        """Whether the turn in flight was committed: the ledger and the server must agree. Its row."""
        flight = one.in_flight
        if flight is None:
            return None
        was_sent = not (flight.answer.lost or "").startswith("ConnectionRefused")
        row = ("decode" if flight.answer.text else "prefill") if was_sent else None
        if len(turns) == len(one.turns) and not was_sent:
            return None
        if len(turns) == len(one.turns):
            self.tally.counts["turns in flight, not there"] += 1
            return row
        answer = serving.chat(self.server, flight.again().body(one.name, len(one.turns)))
        error = answer.error or {}
        if (answer.status, error.get("code"), error.get("committed_turn"), answer.headers["x-should-retry"]) != \
                (409, "conversation_turn_conflict", len(one.turns) + 1, "false"):
            raise serving.Failure(f"{one.name}: its turn {len(one.turns) + 1} is in the ledger, and the same request "
                                  f"again is answered with {answer.status} {error}")
        text = turns[-1]["messages"][-1]["content"]
        if not text.startswith(flight.answer.text):
            raise serving.Failure(f"{one.name}: streamed {flight.answer.text!r}, committed {text!r}")
        self.tally.counts["turns in flight, found whole"] += 1
        one.turns.append(flight)
        one.in_flight = None
        return "committed, final chunk unsent"

    def compare(self, one, turns):
        """Messages, answers and ids, turn by turn; ids and digests also with the oracle's."""
        if [turn["turn"] for turn in turns] != list(range(1, len(one.turns) + 1)):
            raise serving.Failure(f"{one.name}: turns {[turn['turn'] for turn in turns]} in the ledger, "
                                  f"{len(one.turns)} were acknowledged or in flight")
        for known, turn in zip(one.turns, turns):
            text = turn["messages"][-1]
            if turn["messages"][:-1] != known.messages or text["role"] != "assistant" or \
                    known.answer.is_acknowledged and text["content"] != known.answer.text:
                raise serving.Failure(f"{one.name} turn {turn['turn']}: sent {known.messages}, answered "
                                      f"{known.answer.text!r}, in the ledger {turn['messages']}")
            if known.answer.is_acknowledged:
                self.tally.counts["acknowledged turns found"] += 1
        answers = self.oracle.advance(one.oracle_name, one.turns)
        for number in range(1, len(answers) + 1):
            self.check_digest(one, number)
        ids = [(turn["prompt_ids"], turn["generated_ids"]) for turn in turns]
        if turns and ids != self.oracle.ids(one.oracle_name):
            raise serving.Failure(f"{one.name}: the ids in the ledger are not the oracle's")

    def check_digest(self, one, number):
        known = one.turns[number - 1].answer
        wanted = self.oracle.advance(one.oracle_name, one.turns)[number - 1]
        if not known.is_acknowledged:
            return
        if (known.tern["logits_digest"], known.text) != (wanted.tern["logits_digest"], wanted.text):
            raise serving.Failure(f"{one.name} turn {number}: {known.text!r} {known.tern}, the oracle says "
                                  f"{wanted.text!r} {wanted.tern}")
        self.tally.counts["digests equal to the oracle's"] += 1

    def check_restored(self, one, heads, length, durable_turn):
        """The first turn behind the restart attached the newest head that was on disk."""
        answer = one.turns[-1].answer
        tern = answer.tern
        committed = len(one.turns) - 1
        newest = max(heads, default=0)
        if newest > committed:
            raise serving.Failure(f"{one.name}: state of turn {newest} on disk, the ledger ends at {committed}")
        if newest < durable_turn:
            raise serving.Failure(f"{one.name}: turn {durable_turn} was said to be durable, on disk is {newest}")
        self.tally.counts["heads whose spill had committed"] += committed > 0 and newest == committed
        expected = {
            "created": committed == 0,
            "tier": "disk" if newest else "none",
            "rebuilt": newest < committed,
            "num_computed_tokens": heads.get(newest, 0),
            "tokens_reused": heads.get(newest, 0),
            "tokens_run": answer.usage["prompt_tokens"] - heads.get(newest, 0) + answer.usage["completion_tokens"] - 1,
        }
        seen = {name: tern[name] for name in expected}
        if seen != expected:
            raise serving.Failure(f"{one.name} turn {committed + 1}, heads on disk {heads}: {seen}, expected "
                                  f"{expected}, reason {tern['reason']}")
        if committed and newest == committed:
            if heads[newest] != length - 1 or tern["bytes_read"] <= 0 or tern["reason"] is not None:
                raise serving.Failure(f"{one.name}: a line of {length} tokens, head of {heads[newest]}: {tern}")
            self.tally.counts["of these restored from disk"] += 1
        elif committed:
            if not tern["reason"]:
                raise serving.Failure(f"{one.name}: rebuilt without a reason: {tern}")
            self.tally.counts["restored from an older head" if newest else "rebuilt from token ids"] += 1


def run_life(options, number, rounds, oracle, tally, directory):
    """(passed, failed)"""
    life = Life(options, number, oracle, tally, directory)
    passed = 0
    try:
        life.begin()
        for index in rounds:
            plan = Plan(options.seed, index)
            started = time.monotonic()
            try:
                row = life.run(plan, index)
            except (serving.Failure, OSError, KeyError) as failure:
                print(f"FAIL round {index}, {plan}: {type(failure).__name__}: {failure}\n"
                      f"     again: tests/kill/kill_test.py --seed {options.seed} --life {number}", flush=True)
                return passed, 1, True
            (tally.named if plan.place and row == plan.place[1] else tally.random)[row] += 1
            passed += 1
            if options.verbose:
                print(f"round {index}: {plan}: {row}, {time.monotonic() - started:.2f} s", flush=True)
            if index == rounds[-1] or not Plan(options.seed, index + 1).keeps_server:
                life.server.drain()
        life.start()
        time.sleep(HOUSEKEEPING_S)
        life.check_no_orphans()
        life.replay()
        return passed, 0, False
    except serving.Failure as failure:
        print(f"FAIL life {number}: {failure}\n"
              f"     again: tests/kill/kill_test.py --seed {options.seed} --life {number}", flush=True)
        return passed, 1, True
    finally:
        life.end()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = serving.ROOT
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--life", type=int, help="this life alone")
    parser.add_argument("--tern", default=root / "build/faults/tern")
    parser.add_argument("--keep", action="store_true", help="leave the stores of failed lives")
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    return parser.parse_args()


def main():
    options = parse()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tern-kill-"))
    tally = Tally()
    passed = failed = 0
    is_kept = False
    oracle = kill_oracle.Oracle(options.tern, directory, FLAGS)
    try:
        lives = range(-(-options.rounds // ROUNDS_OF_LIFE)) if options.life is None else [options.life]
        for number in lives:
            first = number * ROUNDS_OF_LIFE
            last = first + ROUNDS_OF_LIFE if options.life is not None else min(first + ROUNDS_OF_LIFE, options.rounds)
            good, bad, has_failed = run_life(options, number, range(first, last), oracle, tally, directory)
            passed += good
            failed += bad
            is_kept = is_kept or (has_failed and options.keep)
            if not has_failed:
                shutil.rmtree(directory / f"life-{number}", ignore_errors=True)
        oracle.close()
    except serving.Failure as failure:
        print(f"FAIL the oracle: {failure}")
        failed += 1
    finally:
        oracle.server.kill()
        if is_kept:
            print(f"the stores are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    tally.show()
    if passed >= FULL_ROUNDS and tally.short_rows():
        print(f"FAIL fewer than {ROW_MIN} kills: {', '.join(tally.short_rows())}")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
