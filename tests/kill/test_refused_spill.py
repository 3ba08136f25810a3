"""State that could not be written: turns go on, and what is lost is run again from the newest head that is
there, never from zero. Needs a build with TERN_FAULTS; TERN_FAULTS_BINARY names another one.
"""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http"))

import serving  # noqa: E402

TERN = os.environ.get("TERN_FAULTS_BINARY", str(serving.ROOT / "build/faults/tern"))


def say(server, turns):
    for _ in range(turns):
        answer = serving.chat(server, serving.turn_body("c", "I like red.", max_tokens=6)).expect("a turn")
    return answer


@pytest.mark.parametrize("lost", [1, 2, 3, 8])
@pytest.mark.parametrize("place", ["codec.compress", "state.put"])
def test_lost_turns_are_run_again_from_the_newest_head(tmp_path, place, lost):
    with serving.Server(TERN, tmp_path / "store") as server:
        say(server, 2)
        server.drain()
    with serving.Server(TERN, tmp_path / "store", fault=passes_of_start(tmp_path, place)) as server:
        answer = say(server, lost)
        assert answer.tern["durability"] == "volatile"
        server.kill()
    heads = {head["turn"]: head["length"] for head in serving.inspect(TERN, tmp_path / "store", "--heads")["heads"]
             if head["kind"] == "turn-end"}
    assert max(heads) == 2
    with serving.Server(TERN, tmp_path / "store") as server:
        restored = say(server, 1)
        server.drain()
    with serving.Server(TERN, tmp_path / "other") as server:
        undisturbed = say(server, lost + 3)
    tern = restored.tern
    assert (tern["turn"], tern["tier"], tern["rebuilt"]) == (lost + 3, "disk", True)
    assert tern["num_computed_tokens"] == heads[2] and tern["reason"]
    assert tern["logits_digest"] == undisturbed.tern["logits_digest"]


def passes_of_start(tmp_path, place):
    """The rule that fails every pass of PLACE but those that a start makes."""
    with serving.Server(TERN, tmp_path / "store", fault="log", log=tmp_path / "passes") as server:
        server.drain()
    passes = sum(place in line.split() for line in (tmp_path / "passes").read_text().splitlines())
    return f"fail:{place}:{passes + 1}+"


def test_state_durability_of_a_refused_spill_is_not_claimed(tmp_path):
    """The turn is committed and answered; that its state is on disk is not said."""
    with serving.Server(TERN, tmp_path / "store", fault="fail:codec.compress:1+") as server:
        body = serving.turn_body("c", "I like red.", max_tokens=6, conversation_durability="state")
        answer = serving.chat(server, body).expect("a turn")
        assert answer.tern["durability"] == "volatile"
        assert server.metrics()["tern_spills_refused_total"] >= 1
        server.kill()
    with serving.Server(TERN, tmp_path / "store") as server:
        assert say(server, 1).tern["turn"] == 2
