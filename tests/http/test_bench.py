"""`tern bench resume`, `swap`, `fill` and `lookup`, small, on the demo model: that they measure what
they say, refuse to measure anything else, and leave no process and no directory behind."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TERN = os.environ.get("TERN", str(ROOT / "build" / "release" / "tern"))
WAIT_S = 60
DISK = ["--disk", "1G"]  # a larger one reserves more for the ledger


@pytest.fixture(name="scratch")
def fixture_scratch(tmp_path):
    """The directory that temporary stores go into; nothing may be left in it or run on it."""
    path = tmp_path / "scratch"
    path.mkdir()
    yield path
    assert await_nothing_runs_on(path) == []
    assert list(path.iterdir()) == []


def running_on(path):
    """The command lines of the servers whose store lies in the directory."""
    found = []
    for process in pathlib.Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "serve" in words and any(word.startswith(str(path)) for word in words):
            found.append(words)
    return found


def await_nothing_runs_on(path):
    deadline = time.monotonic() + WAIT_S
    while (found := running_on(path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def begin(scratch, *arguments):
    environment = dict(os.environ, TMPDIR=str(scratch))
    return subprocess.Popen([TERN, "bench", *map(str, arguments)], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def bench(scratch, *arguments):
    process = begin(scratch, *arguments)
    out, errors = process.communicate(timeout=WAIT_S)
    return process.returncode, out, errors


def measured(scratch, *arguments):
    status, out, errors = bench(scratch, *arguments, "--json")
    assert status == 0, errors
    assert errors == ""
    return json.loads(out)


def refused(scratch, *arguments, status=1):
    found, out, errors = bench(scratch, *arguments)
    assert found == status, (found, out, errors)
    assert out == ""
    return errors


def test_resume_reports_each_tier_with_one_word_and_with_many(scratch):
    report = measured(scratch, "resume", "--history", 500, "--new-words", 40, "--rounds", 2)
    rows = report["rows"]
    assert [(row["head"], row["is_one_word"], row["tier"]) for row in rows] == [
        ("cold", False, "none")] + [
            (head, is_one_word, tier) for is_one_word in (True, False)
            for head, tier in (("device", "device"), ("host", "host"),
                               ("disk cached", "disk"), ("disk dropped", "disk"))]
    cold = rows[0]
    assert (cold["tokens_reused"], cold["times_less_than_cold"]) == (0, 1)
    assert 490 <= cold["tokens_run"] <= 550
    for row in rows[1:]:
        assert row["tokens_reused"] >= cold["tokens_run"]
        # The word, or the words, and what the template and the last sampled token add.
        assert (1 if row["is_one_word"] else 40) < row["tokens_run"] < (40 if row["is_one_word"] else 80)
        is_disk = row["tier"] == "disk"
        assert (row["bytes_read"] > 500_000 / 2) == is_disk == (row["floor_ms"] > 0)
        assert (row["restore_ms"] > 0) or not is_disk
        assert row["first_token_ms"] > row["restore_ms"]
    for row in rows:
        assert 0 < row["first_token_ms_min"] <= row["first_token_ms"] <= row["first_token_ms_max"]
        assert row["first_token_ms"] * row["times_less_than_cold"] == pytest.approx(cold["first_token_ms"], rel=1e-3)
    assert report["history_tokens"] == 500 and 40 <= report["new_tokens"] <= 45
    assert report["head_raw_bytes"] > report["head_coded_bytes"] > 0
    assert report["decode_bytes_per_second"] >= report["decode_bytes_per_second_one_thread"] > 1e6
    assert report["disk_bytes_per_second"] > 1e6
    assert 0 <= report["resident_share_after_drop"] <= 1


def test_resume_shows_a_table_and_keeps_a_store_that_is_named(scratch, tmp_path):
    store = tmp_path / "store"
    status, out, errors = bench(scratch, "resume", "--history", 200, "--new-words", 5, "--rounds", 1,
                                "--store", store)
    assert status == 0, errors
    assert out.count("\ndisk ") == 4 and "floor" in out
    assert (store / "state" / "data.mdb").exists()
    again = refused(scratch, "resume", "--history", 200, "--rounds", 1, "--store", store)
    assert "tern bench resume: cold: expected state from tier none" in again


def test_resume_refuses_state_from_another_tier(scratch):
    # No image fits into host memory: heads stay on the device, or are lost.
    errors = refused(scratch, "resume", "--history", 1000, "--rounds", 1, "--host-memory", "1M")
    assert "expected state from tier host" in errors
    assert "--- the end of the server's log:" in errors and "state slots" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_benchmark_that_is_ended_takes_its_server_along(scratch, number):
    process = begin(scratch, "resume", "--history", 2000, "--rounds", 60)
    deadline = time.monotonic() + WAIT_S
    while not any(file.stat().st_size > 1_000_000 for file in scratch.glob("*/state/data.mdb")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert len(running_on(scratch)) == 1
    process.send_signal(number)
    _, errors = process.communicate(timeout=WAIT_S)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert await_nothing_runs_on(scratch) == []
        for left in scratch.iterdir():  # nobody was there to remove it
            shutil.rmtree(left)
    else:
        assert process.returncode == 1
        assert errors.startswith("tern bench resume: ")


def test_a_filled_store_is_looked_up_without_changing_it(scratch, tmp_path):
    store = tmp_path / "store"
    report = measured(scratch, "fill", "--store", store, "--conversations", 8, "--in-flight", 4, *DISK)
    assert (report["conversations"], report["conversations_stored"]) == (8, 8)
    assert report["state_bytes"] > 8 * 400_000
    report = measured(scratch, "fill", "--store", store, "--conversations", 4, "--first", 8, *DISK)
    assert report["conversations_stored"] == 12
    assert "fill-00000 (see --first): 409 conversation_turn_conflict" in refused(
        scratch, "fill", "--store", store, "--conversations", 1, *DISK)
    for extra in ([], ["--drop-cache"]):
        report = measured(scratch, "lookup", "--store", store, "--samples", 20, "--per-start", 8, *DISK,
                          *extra)
        assert (report["conversations"], report["samples"], report["starts"]) == (12, 20, 3)
        assert report["is_cache_dropped"] == bool(extra)
        assert 0 < report["first_token_ms"] <= report["first_token_ms_p95"] <= report["first_token_ms_max"]
        assert 0 < report["start_ms"] <= report["start_ms_max"]
        assert 0 < report["empty_start_ms"] <= report["empty_start_ms_max"]
    listed = json.loads(subprocess.run([TERN, "inspect", "--store", str(store), "--json"], check=True,
                                       capture_output=True, timeout=WAIT_S).stdout)
    assert sorted((one["id"], one["turns"]) for one in listed["conversations"]) == [
        (f"fill-{i:05}", 1) for i in range(12)]


def test_lookup_refuses_a_store_without_ledger_conversations_or_state(scratch, tmp_path):
    store = tmp_path / "store"
    assert "is no store" in refused(scratch, "lookup", "--store", store)
    measured(scratch, "fill", "--store", store, "--conversations", 2, *DISK)
    shutil.rmtree(store / "state")
    errors = refused(scratch, "lookup", "--store", store, *DISK)
    assert "conversation_state_missing" in errors


@pytest.mark.parametrize("host_memory", ["12M", "256M"])
def test_swap_counts_where_state_came_from(scratch, host_memory):
    report = measured(scratch, "swap", "--conversations", 16, "--turns", 3, "--in-flight", 2,
                      "--history-words", 200, "--new-words", 10, "--context", 1024,
                      "--device-memory", "48M", "--host-memory", host_memory)
    first, *later = report["turns"]
    assert first["tiers"] == {"device": 0, "host": 0, "disk": 0, "none": 16}
    assert first["tokens_run"] >= 16 * 200
    assert [turn["turn"] for turn in later] == [2, 3]
    for turn in later:
        assert sum(turn["tiers"].values()) == 16
        assert (turn["tiers"]["none"] > 0) == (turn["rebuilt"] > 0) == (turn["reason"] is not None)
        assert turn["tokens_run"] >= 16 * 10
        assert 0 < turn["first_token_ms"] <= turn["first_token_ms_p95"] <= turn["whole_ms_p95"]
        # Room for all in host memory, or for a few.
        assert (turn["tiers"]["disk"] > 0) == (turn["bytes_read"] > 0) == (host_memory == "12M")
        assert turn["tiers"]["host"] > 0 or host_memory == "12M"


def test_a_server_that_does_not_start_is_quoted(scratch, tmp_path):
    errors = refused(scratch, "fill", "--store", tmp_path / "store", "--conversations", 1, "--disk", "1M")
    assert "tern serve: --ledger-reserve" in errors
    assert "tern bench fill: the server ended with status 2 before it listened" in errors
    errors = refused(scratch, "swap", "--device-memory", "1M", "--host-memory", "1M")
    assert "device memory: weight needs" in errors


@pytest.mark.parametrize("arguments", [
    ["fill", "--conversations", "1"], ["fill", "--store", "x"], ["lookup"],
    ["swap", "--device-memory", "1G"], ["swap", "--host-memory", "1G"],
    ["resume", "--rounds", "0"], ["resume", "--history", "x"], ["nothing"]])
def test_what_is_missing_or_wrong_on_the_command_line_is_named(scratch, arguments):
    assert refused(scratch, *arguments, status=2).startswith("tern bench")
