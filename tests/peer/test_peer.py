"""tests/peer/run against a peer that answers as llama.cpp does, and the real tern with the demo model."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/peer"), str(ROOT / "tests/bench")]

import figures  # noqa: E402: after the path is set
import peer_cases  # noqa: E402
from chat_stream import Reply  # noqa: E402
from fake_peer import FakePeer  # noqa: E402
from server_process import ServerProcess, free_port  # noqa: E402

TERN = os.environ.get("TERN", str(ROOT / "build/release/tern"))
SMALL = ["--history", "100", "--new", "40", "--rounds", "3", "--restart-history", "150", "--conversations", "5",
         "--turns", "2", "--swap-new", "30", "--streams", "1,3", "--stream-rounds", "1", "--commit-turns", "12"]


@pytest.fixture(name="tern", scope="module")
def fixture_tern(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    port = free_port()
    with ServerProcess([TERN, "serve", "--store", folder / "store", "--port", port, "--threads", "1"], port,
                       folder / "log") as server:
        yield server


@pytest.fixture(name="peer")
def fixture_peer(tern, tmp_path):
    peer = FakePeer(tmp_path)
    peer.on_post["/restart-tern"] = tern.restart
    yield peer
    peer.stop()


def run(peer, tern, *arguments):
    command = [sys.executable, str(ROOT / "tests/peer/run"), "--peer", peer.url, "--tern", tern.url, *SMALL,
               *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def restart_flags(peer, peer_command=None, tern_command=None):
    return ["--peer-restart", peer_command or f"curl -fsS -X POST {peer.url}/restart",
            "--tern-restart", tern_command or f"curl -fsS -X POST {peer.url}/restart-tern"]


def test_figures_of_all_cases_come_out(peer, tern, tmp_path):
    done = run(peer, tern, "--json", tmp_path / "figures.json", *restart_flags(peer))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "figures.json").read_text())
    cases = report["cases"]
    assert list(cases) == ["turn", "restart", "swap", "streams", "commit"] and report["peer_slots"] == 4
    for name, case in cases.items():
        for row in case["rows"]:
            assert row["tern"] > 0 and row["name"] in done.stdout
            if name != "commit":
                assert row["peer"] > 0 and row["ratio"] > 0
    assert [len(case["rows"]) for case in cases.values()] == [1, 4, 4, 2, 6]


def test_ratios_are_those_of_the_samples(peer, tern, tmp_path):
    done = run(peer, tern, "--json", tmp_path / "figures.json", "--cases", "turn,restart", *restart_flags(peer))
    assert done.returncode == 0, done.stderr
    cases = json.loads((tmp_path / "figures.json").read_text())["cases"]
    row, samples = cases["turn"]["rows"][0], cases["turn"]["samples"]
    theirs, ours = (sorted(one[who]["first_text_s"] for one in samples)[1] for who in ("peer", "tern"))
    assert len(samples) == 3 and row["peer"] == theirs and row["tern"] == ours
    assert row["ratio"] == pytest.approx(theirs / ours)
    for sample in samples:  # new tokens alone were run
        assert sample["tern"]["tier"] == "device" and 30 <= sample["tern_new_tokens"] < 50
    first = cases["restart"]["samples"][0]
    restored = next(row for row in cases["restart"]["rows"] if "slot restore" in row["name"])
    assert restored["peer"] == pytest.approx(first["peer_restore_s"] + first["peer_restored"]["first_text_s"])
    assert first["tern"]["tier"] == "disk" and first["peer_cold"]["cache_n"] == 0


def test_texts_follow_from_the_seed(peer, tern, tmp_path):
    counts = []
    for index in range(2):
        done = run(peer, tern, "--cases", "turn", "--seed", "same", "--rounds", "2", "--json", tmp_path / f"{index}")
        assert done.returncode == 0 and "seed same" in done.stdout
        samples = json.loads((tmp_path / f"{index}").read_text())["cases"]["turn"]["samples"]
        counts.append([one["tern"]["prompt_tokens"] for one in samples])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("fault, said", [("forget", "reused 0 of"), ("refuse", "refused to order"),
                                         ("break", "ended early"), ("short", "ended by 'stop'"),
                                         ("no-timings", "no llama.cpp server")])
def test_fault_of_the_peer_fails_the_run(peer, tern, fault, said):
    peer.fault = fault
    done = run(peer, tern, "--cases", "turn")
    assert done.returncode == 1 and said in done.stderr


def test_tier_other_than_the_expected_fails_the_run(peer, tern):
    done = run(peer, tern, "--cases", "restart", *restart_flags(peer, tern_command="true"))
    assert done.returncode == 1 and "came from 'device', expected disk" in done.stderr


def test_peer_that_kept_its_cache_is_not_cold(peer, tern):
    done = run(peer, tern, "--cases", "restart", *restart_flags(peer, peer_command="true"))
    assert done.returncode == 1 and "right after a restart; expected none" in done.stderr


def test_restart_that_fails_fails_the_run(peer, tern):
    done = run(peer, tern, "--cases", "restart", *restart_flags(peer, peer_command="exit 3"))
    assert done.returncode == 1 and "exit status 3" in done.stderr


def test_what_is_no_tern_server_fails_the_run(peer):
    done = run(peer, peer, "--cases", "commit")
    assert done.returncode == 1 and "/metrics" in done.stderr
    done = run(peer, peer, "--cases", "turn")
    assert done.returncode == 1 and "no tern server" in done.stderr


def test_unknown_case_and_missing_command_are_refused(peer, tern):
    assert "no case 'tern'" in run(peer, tern, "--cases", "tern").stderr
    assert "--peer-restart" in run(peer, tern, "--cases", "restart").stderr


def reply_of(times, tokens=None):
    reply = Reply()
    reply.text_times = times
    reply.usage = {"completion_tokens": tokens or len(times)}
    return reply


def test_rate_counts_the_time_in_which_most_streams_ran():
    alone = peer_cases.rate_while_most_run([reply_of([1.0, 1.5, 2.0])])
    assert alone == (2.0, 1)
    # Both run from 1 to 2: two chunks of the first, and one of the second, which is two tokens.
    both = peer_cases.rate_while_most_run([reply_of([0.0, 1.5, 2.0]), reply_of([1.0, 2.0, 3.0, 4.0], 8)])
    assert both == (4.0, 2)
    # Two slots serve three requests: the time in which two ran is not that between the waves.
    waves = peer_cases.rate_while_most_run([reply_of([0.0, 1.0]), reply_of([0.0, 1.0]), reply_of([5.0, 6.0])])
    assert waves == (2.0, 2)


def test_median_and_percentile_are_nearest_rank():
    assert figures.median([3, 1, 2]) == 2 and figures.median([4, 1, 2, 3]) == 2.5
    assert figures.percentile(range(1, 101), 0.99) == 99 and figures.percentile([7], 0.95) == 7
    assert figures.percentile([1, 2, 3, 4], 0.5) == 2


def test_ratio_says_how_many_times_better_tern_is():
    assert figures.row("a time", "s", 3.0, 1.5)["ratio"] == 2
    assert figures.row("a rate", "tokens/s", 50.0, 75.0)["ratio"] == 1.5
    assert figures.row("tern alone", "s", None, 1.0)["ratio"] is None
    assert figures.show(0.0123, "s") == "12.3 ms" and figures.show(0.005, "share") == "0.5 %"
    assert "2.00x" in figures.table([figures.row("a time", "s", 3.0, 1.5)])[1]
