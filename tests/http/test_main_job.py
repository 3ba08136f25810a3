"""The main job from outside: conversations that survive kills, tiers, signals, clients that vanish,
what is written, and the unmodified OpenAI client. TERN names another binary than build/release's.
"""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time

import openai
import pytest

import replay
import serving
from serving import chat, inspect, inspect_turns, line_of, send_and_hold, turn_body

TERN = os.environ.get("TERN", str(serving.ROOT / "build/release/tern"))
# Bytes count on a real file system alone.
SCRATCH = serving.ROOT / "build/test-main-job"
FACTS = ("Hello!", "My name is Tara.", "I live in Oslo.")
QUESTION, ANSWER = "What is my name?", "Tara"


@pytest.fixture
def directory(request):
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    path = SCRATCH / f"{name}-{os.getpid()}"
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)
    if not any(SCRATCH.iterdir()):
        SCRATCH.rmdir()


@pytest.fixture
def serve(directory):
    """Starts servers that are gone when the test is over."""
    servers = []

    def start(store="store", *flags):
        server = serving.Server(TERN, directory / store, "--threads", 2, *flags)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


def spoken(conversation, text, **fields):
    """A turn that ends where the model ends it."""
    return turn_body(conversation, text, ignore_eos=False, max_tokens=40, **fields)


def say(server, conversation, text, **fields):
    return chat(server, turn_body(conversation, text, **fields)).expect(f"{conversation}: {text}")


def tell_facts(server, conversation, durability=None):
    fields = {"conversation_durability": durability} if durability else {}
    for number, fact in enumerate(FACTS):
        answer = chat(server, spoken(conversation, fact, conversation_expected_turn=number, **fields)).expect(fact)
        assert answer.tern["turn"] == number + 1
    return answer


# --- a kill between two turns -------------------------------------------------------------

def check_recall(server, store, conversation):
    """Asks for the fact with the new message alone. (answer, length of the line before)"""
    length = len(line_of(inspect_turns(TERN, store, conversation)))
    before = server.metrics()["tern_tokens_run_total"]
    answer = chat(server, spoken(conversation, QUESTION, conversation_expected_turn=len(FACTS))).expect("recall")
    ran = server.metrics()["tern_tokens_run_total"] - before
    tern, usage = answer.tern, answer.usage
    assert ANSWER in answer.text
    assert tern["turn"] == len(FACTS) + 1 and tern["created"] is False
    assert ran == tern["tokens_run"] == usage["prompt_tokens"] + usage["completion_tokens"] - 1 - tern["tokens_reused"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == tern["num_computed_tokens"] == tern["tokens_reused"]
    return answer, length


def test_durable_state_is_continued_after_a_kill(serve, directory):
    server = serve()
    answer = tell_facts(server, "c", "state")
    server.kill()
    assert answer.tern["durability"] == "durable"
    recalled, length = check_recall(serve(), directory / "store", "c")
    assert (recalled.tern["tier"], recalled.tern["rebuilt"], recalled.tern["reason"]) == ("disk", False, None)
    assert recalled.tern["num_computed_tokens"] == length - 1  # all but the pending token
    assert recalled.tern["bytes_read"] > 0


def test_kill_at_once_loses_no_turn(serve, directory):
    server = serve()
    tell_facts(server, "c")
    server.kill()
    heads = {head["turn"]: head["length"]
             for head in inspect(TERN, directory / "store", "--conversation", "c", "--heads")["heads"]
             if head["kind"] == "turn-end" and head["is_complete"]}
    recalled, length = check_recall(serve(), directory / "store", "c")
    newest = max(heads, default=0)
    assert recalled.tern["num_computed_tokens"] == heads.get(newest, 0)
    assert recalled.tern["rebuilt"] is (newest < len(FACTS))
    if newest < len(FACTS):
        assert recalled.tern["reason"]
    else:
        assert recalled.tern["num_computed_tokens"] == length - 1


def test_without_state_the_answer_is_rebuilt_bit_for_bit(serve, directory):
    server = serve()
    tell_facts(server, "c")
    server.drain()
    shutil.copytree(directory / "store", directory / "bare")
    shutil.rmtree(directory / "bare/state")
    restored, length = check_recall(serve(), directory / "store", "c")
    rebuilt, _ = check_recall(serve("bare"), directory / "bare", "c")
    assert (restored.tern["tier"], restored.tern["rebuilt"]) == ("disk", False)
    assert (rebuilt.tern["tier"], rebuilt.tern["rebuilt"]) == ("none", True)
    assert rebuilt.tern["reason"]
    assert rebuilt.tern["num_computed_tokens"] == 0
    assert rebuilt.tern["tokens_run"] == restored.tern["tokens_run"] + length - 1
    assert rebuilt.text == restored.text
    assert rebuilt.tern["logits_digest"] == restored.tern["logits_digest"]


def test_require_cache_refuses_a_rebuild(serve, directory):
    server = serve()
    say(server, "c", "Hello!", max_tokens=5)
    server.drain()
    shutil.rmtree(directory / "store/state")
    server = serve()
    length = len(line_of(inspect_turns(TERN, directory / "store", "c")))
    answer = chat(server, turn_body("c", "And?", max_tokens=2, conversation_require_cache=True))
    assert (answer.status, answer.error["code"]) == (409, "conversation_state_missing")
    assert answer.headers["x-should-retry"] == "false" and answer.error["rebuild_tokens"] == length - 1
    answer = chat(server, turn_body("d", "And?", max_tokens=2, conversation_require_cache=True))
    assert (answer.status, answer.error["code"]) == (404, "conversation_not_found")
    assert say(server, "c", "And?", max_tokens=2).tern["rebuilt"] is True


# --- tiers --------------------------------------------------------------------------------

def test_each_tier_gives_the_same_logits(serve, directory):
    """One conversation for each tier, all alike, and the tier that the response names."""
    def talk(server, conversation):
        for number in range(3):
            say(server, conversation, f"I like {number} and red.", max_tokens=6)

    def ask(server, conversation):
        answer = say(server, conversation, "What did I say?", max_tokens=8)
        digests.add(answer.tern["logits_digest"])
        assert answer.tern["rebuilt"] is False and answer.tern["tokens_reused"] > 0
        return answer.tern["tier"]

    digests = set()
    # Weights and activations leave room for a few heads on the device.
    server = serve("store", "--device-memory", "64M", "--host-memory", "64M")
    talk(server, "device")
    assert ask(server, "device") == "device"
    talk(server, "host")
    fill_until_evicted(server, "device")
    assert ask(server, "host") == "host"
    talk(server, "disk")
    fill_until_evicted(server, "host")
    assert ask(server, "disk") == "disk"
    talk(server, "restart")
    server.drain()
    assert ask(serve(), "restart") == "disk"
    assert len(digests) == 1


def fill_until_evicted(server, tier, conversations_max=1000):
    """Other conversations, until all that was in TIER before must have left it."""
    held = server.metrics()[f'tern_tier_heads{{tier="{tier}"}}']
    name = f'tern_evictions_total{{tier="{tier}"}}'
    # Heads of the fillers go as well, some before those that were there.
    wanted = server.metrics()[name] + 2 * held + 8
    for number in range(conversations_max):
        if server.metrics()[name] > wanted:
            return
        say(server, f"filler {tier} {number}", "Hello!", max_tokens=1)
    raise AssertionError(f"{conversations_max} conversations more, and {tier} evicts nothing: {server.metrics()[name]}")


# --- the ledger's ids ---------------------------------------------------------------------

def test_openai_client_through_three_restarts(serve, directory):
    """The unmodified client, streamed and not, 24 turns; then the ledger's ids in one run."""
    turns = 24
    server = None
    texts = []
    for number in range(turns):
        if number % 6 == 0:
            if server is not None:  # two drains and a kill
                server.kill() if number == 12 else server.drain()
            server = serve()
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
        request = {"model": "tern", "temperature": 0, "max_tokens": 40,
                   "messages": [{"role": "user", "content": (FACTS + (QUESTION, "Where do I live?"))[number % 5]}],
                   "extra_body": {"conversation_id": "openai", "conversation_expected_turn": number,
                                  "cache_salt": "of a user", "logits_digest": True}}
        text, tern, usage = (converse_streamed if number % 2 else converse)(client, request)
        texts.append(text)
        assert tern["turn"] == number + 1 and tern["created"] is (number == 0)
        assert len(tern["logits_digest"]) == 64
        assert usage.prompt_tokens_details.cached_tokens == tern["num_computed_tokens"]
        if number % 6:
            assert tern["tier"] == "device" and not tern["rebuilt"]
        elif number and number != 12:
            assert tern["tier"] == "disk" and not tern["rebuilt"]
    with pytest.raises(openai.ConflictError) as conflict:
        client.chat.completions.create(**request)
    assert conflict.value.code == "conversation_turn_conflict"
    assert conflict.value.body["committed_turn"] == turns
    assert ANSWER in texts[3] and ANSWER in texts[8]
    server.drain()
    stored = inspect_turns(TERN, directory / "store", "openai", "of a user")
    assert [turn["messages"][-1]["content"] for turn in stored] == texts
    replay.check(TERN, directory, stored)


def converse(client, request):
    response = client.chat.completions.create(**request)
    return response.choices[0].message.content, response.tern, response.usage


def converse_streamed(client, request):
    text, tern, usage = "", None, None
    with client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                if chunk.choices[0].finish_reason:
                    tern = chunk.tern
            usage = chunk.usage or usage
    return text, tern, usage


def test_replay_of_turns_of_every_kind(serve, directory):
    """Ids as sampled: end tokens passed over, answers cut by a stop string, several messages."""
    server = serve()
    long_text = " ".join(["I like red and tea and Oslo."] * 30)
    for number, (text, fields) in enumerate([
            ("Hello!", {"max_tokens": 60}), (long_text, {"max_tokens": 1}), ("äöü 東京 🦊", {"max_tokens": 20}),
            (QUESTION, {"max_tokens": 40, "ignore_eos": False}), ("Again.", {"max_tokens": 40, "stop": [" "]}),
            ("And?", {"max_tokens": 10, "messages": [{"role": "system", "content": "Be brief."},
                                                     {"role": "user", "content": "And?"}]})]):
        say(server, "c", text, conversation_expected_turn=number, stream=bool(number % 2), **fields)
        if number == 3:
            server.kill()
            server = serve()
    turns = inspect_turns(TERN, directory / "store", "c")
    assert len(turns) == 6
    replay.check(TERN, directory, turns)


# --- what is written ----------------------------------------------------------------------

def file_system_of(path):
    return subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip()


def bytes_written(process, counter):
    text = pathlib.Path(f"/proc/{process}/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())[counter])


def honest_counter(directory):
    """
    The counter of /proc/PID/io to go by. write_bytes counts what becomes dirty; kernels whose file
    systems cache files in large folios count the whole folio that one big write made (1 MiB) when
    4 KiB of it are written again, though the disk gets 4 KiB. Where that is so, wchar stands in: the
    bytes handed to write calls, never less than what reaches the disk.
    """
    page = 4096
    with open(directory / "calibration", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(256 * page), 0)
        os.fsync(file.fileno())
        before = bytes_written("self", "write_bytes")
        os.pwrite(file.fileno(), bytes(page), 0)
        charged = bytes_written("self", "write_bytes") - before
    return "write_bytes" if charged <= page else "wchar"


def coded_bytes_of(directory, known):
    """Coded bytes of the conversation's objects that were not in KNOWN, which they join."""
    count = 0
    for item in inspect(TERN, directory / "store", "--conversation", "c", "--objects")["objects"]:
        key = (item["part"], item["lineage"], item["index"])
        if key not in known:
            known.add(key)
            count += item["coded_bytes"]
    return count


@pytest.mark.parametrize("history", [int(os.environ.get("TERN_WRITE_HISTORY", 1000))])
def test_a_turn_writes_only_what_is_new(serve, directory, history):
    if file_system_of(directory) == "tmpfs":
        pytest.skip("tmpfs counts no bytes")
    counter = honest_counter(directory)
    server = serve()
    turns = 50
    opening = "I like red. " * (history // 4)
    known = set()
    ratios = []
    written_before = bytes_written(server.process.pid, counter)
    for number in range(1, turns + 1):
        answer = say(server, "c", opening if number == 1 else f"{number}.", max_tokens=4,
                     conversation_durability="state")
        written = bytes_written(server.process.pid, counter)
        turn = inspect_turns(TERN, directory / "store", "c")[-1]
        record = 4 * len(turn["prompt_ids"] + turn["generated_ids"]) + len(json.dumps(turn["messages"]).encode())
        needed = coded_bytes_of(directory, known) + record
        if number > 1:
            ratios.append((written - written_before) / needed)
        elif answer.usage["prompt_tokens"] < history // 2:
            pytest.fail(f"the opening has {answer.usage['prompt_tokens']} tokens, expected about {history}")
        written_before = written
    early, late = statistics.mean(ratios[:10]), statistics.mean(ratios[-10:])
    print(f"{counter} over what is needed: mean {statistics.mean(ratios):.3f}, turns 2 to 11 {early:.3f}, "
          f"41 to 50 {late:.3f}, largest {max(ratios):.3f}")
    assert statistics.mean(ratios) <= 1.2
    assert late <= early * 1.05


# --- signals ------------------------------------------------------------------------------

class Background:
    """A streamed turn in a thread of its own."""

    def __init__(self, server, conversation, **fields):
        self.answer = serving.Answer()
        body = turn_body(conversation, "Tell me.", stream=True, **fields)
        self.thread = threading.Thread(target=chat, args=(server, body), kwargs={"answer": self.answer}, daemon=True)
        self.thread.start()
        until = time.monotonic() + 30
        while not self.answer.text and time.monotonic() < until:
            time.sleep(0.005)
        assert self.answer.text, f"no text came: {self.answer.error} {self.answer.lost}"

    def join(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.answer


def test_sigterm_finishes_what_runs_and_writes_what_waits(serve, directory):
    server = serve()
    say(server, "c", "Hello!", max_tokens=3)
    running = Background(server, "c", max_tokens=300)
    server.signal(signal.SIGTERM)
    answer = running.join().expect("the turn that ran")
    assert server.wait() == 0
    assert answer.usage["completion_tokens"] == 300
    heads = inspect(TERN, directory / "store", "--conversation", "c", "--heads")["heads"]
    assert (2, True) in [(head["turn"], head["is_complete"]) for head in heads if head["kind"] == "turn-end"]
    server = serve()
    assert "ended without closing" not in server.errors()
    assert say(server, "c", "And?", max_tokens=2).tern["tier"] == "disk"


def test_drain_that_takes_too_long_still_writes_what_waits(serve, directory):
    server = serve("store", "--drain-seconds", 1, "--spill", "evict")
    say(server, "c", "Hello!", max_tokens=3)
    running = Background(server, "d", max_tokens=6000)
    server.signal(signal.SIGTERM)
    assert not running.join().is_acknowledged
    assert server.wait() == 1
    assert "cut off" in server.errors()
    server = serve()
    assert "ended without closing" not in server.errors()
    assert say(server, "c", "And?", max_tokens=2, conversation_expected_turn=1).tern["tier"] == "disk"


def test_second_sigterm_stops_at_once(serve, directory):
    server = serve()
    say(server, "c", "Hello!", max_tokens=3, conversation_durability="state")
    running = Background(server, "c", max_tokens=6000)
    server.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert server.is_running()
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    server.wait()
    assert time.monotonic() - started < 3
    assert not running.join().is_acknowledged
    server = serve()
    answer = say(server, "c", "And?", max_tokens=2, conversation_expected_turn=1)
    assert (answer.tern["tier"], answer.tern["rebuilt"]) == ("disk", False)


def test_second_server_is_refused(serve, directory):
    server = serve()
    run = subprocess.run([TERN, "serve", "--store", directory / "store", "--port", "0"], capture_output=True,
                         text=True, check=False, timeout=60)
    assert run.returncode != 0 and str(server.process.pid) in run.stderr


# --- clients that vanish ------------------------------------------------------------------

def wait_until(condition, what, timeout_s=20):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s} s for {what}"
        time.sleep(0.005)


LONG_PROMPT = "I like red and tea. " * 1000


def vanish_queued(server):
    """Behind as many others as may run."""
    others = [send_and_hold(server, turn_body(f"other {i}", "Tell me.", max_tokens=4000)) for i in range(2)]
    wait_until(lambda: server.metrics()["tern_requests_running"] == 2, "two to run")
    held = send_and_hold(server, turn_body("c", "Tell me.", max_tokens=50))
    wait_until(lambda: server.metrics()["tern_requests_queued"] == 1, "one to be queued")
    held.close()
    wait_until(lambda: server.metrics()["tern_requests_queued"] == 0, "the queue to be empty")
    assert server.metrics()["tern_requests_running"] == 2  # it left the queue, and did not get in
    for other in others:
        other.close()


def vanish_in_prefill(server):
    before = server.metrics()
    held = send_and_hold(server, turn_body("c", LONG_PROMPT, max_tokens=50))
    wait_until(lambda: server.metrics()["tern_tokens_run_total"] > before["tern_tokens_run_total"], "prefill")
    held.close()
    server.await_metric("tern_leases", 0)
    assert server.metrics()["tern_tokens_generated_total"] == before["tern_tokens_generated_total"]


def vanish_mid_stream(server):
    seen = []
    answer = chat(server, turn_body("c", "Tell me.", max_tokens=4000, stream=True),
                  on_text=lambda _: seen.append(1) or len(seen) == 5)
    assert answer.text and not answer.is_acknowledged


def vanish_unstreamed(server):
    before = server.metrics()["tern_tokens_generated_total"]
    held = send_and_hold(server, turn_body("c", "Tell me.", max_tokens=4000))
    wait_until(lambda: server.metrics()["tern_tokens_generated_total"] > before + 3, "tokens")
    held.close()


def vanish_half_closed(server):
    """A client that closes its side counts as gone."""
    held = send_and_hold(server, turn_body("c", "Tell me.", max_tokens=4000, stream=True))
    assert held.recv(100)
    held.shutdown(socket.SHUT_WR)
    server.await_metric("tern_leases", 0)
    held.close()


@pytest.mark.parametrize("vanish", [vanish_queued, vanish_in_prefill, vanish_mid_stream, vanish_unstreamed,
                                    vanish_half_closed])
def test_vanished_client_leaves_nothing_behind(serve, directory, vanish):
    server = serve("store", "--running-max", "2")
    for conversation in ("c", "twin"):
        say(server, conversation, "My name is Tara.", max_tokens=10)
    vanish(server)
    for gauge in ("tern_leases", "tern_requests_running", "tern_requests_queued"):
        server.await_metric(gauge, 0, timeout_s=5)
    assert server.metrics()["tern_requests_running"] == 0
    answer = say(server, "c", QUESTION, max_tokens=10, conversation_expected_turn=1)
    twin = say(server, "twin", QUESTION, max_tokens=10, conversation_expected_turn=1)
    assert (answer.tern["tier"], answer.tern["rebuilt"]) == ("device", False)
    assert answer.tern["logits_digest"] == twin.tern["logits_digest"]
    assert answer.tern["tokens_reused"] == twin.tern["tokens_reused"]
    server.drain()
    assert [len(inspect_turns(TERN, directory / "store", name)) for name in ("c", "twin")] == [2, 2]


# --- deletion -----------------------------------------------------------------------------

@pytest.mark.parametrize("is_killed", [False, True])
def test_deleted_conversation_is_gone_for_good(serve, directory, is_killed):
    server = serve()
    say(server, "c", "Hello!", max_tokens=4, cache_salt="s", conversation_durability="state")
    assert server.delete("c") == 404  # of another salt
    assert server.delete("c", "s") == 200
    if is_killed:
        server.kill()
        server = serve()
    assert server.delete("c", "s") == 404
    answer = chat(server, turn_body("c", "And?", max_tokens=2, cache_salt="s", conversation_expected_turn=1))
    assert (answer.status, answer.error["code"]) == (404, "conversation_not_found")
    assert inspect(TERN, directory / "store")["conversations"] == []
    answer = say(server, "c", "Hello!", max_tokens=4, cache_salt="s")
    assert (answer.tern["created"], answer.tern["turn"], answer.tern["tier"]) == (True, 1, "none")
