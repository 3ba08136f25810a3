"""`tern inspect`, `tern dump` and `tools/quickstart` over a real server and the demo model."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.request

import numpy
import pytest
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TERN = os.environ.get("TERN", str(ROOT / "build" / "release" / "tern"))
WAIT_S = 60
SAID = ["My name is Tara.", "I live in Oslo. And I play the cello.", "What is my name?"]


@contextlib.contextmanager
def serving(store, *options):
    """A server on a free port; yields its address and process, and stops it if it still runs."""
    log = store.parent / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen([TERN, "serve", "--store", str(store), "--port", "0", *options],
                                  stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(r"^tern: listening on (\S+)$", log.read_text(), re.MULTILINE)):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found.group(1), server
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            assert server.wait(WAIT_S) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def say(url, text, **fields):
    body = {"messages": [{"role": "user", "content": text}], "conversation_id": "tools",
            "cache_salt": "salt", "conversation_durability": "state", "temperature": 0, **fields}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
        return json.load(reply)


def tern(*arguments):
    return subprocess.run([TERN, *map(str, arguments)], capture_output=True, text=True,
                          timeout=WAIT_S, check=False)


def inspected(store, *options):
    ran = tern("inspect", "--store", store, *options, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def turns(store):
    return inspected(store, "--conversation", "tools", "--salt", "salt", "--turns")


def dumped(store, path, *options):
    """The tensors and the metadata of a dump."""
    ran = tern("dump", "--store", store, "--conversation", "tools", "--salt", "salt", "--out", path,
               *options)
    assert ran.returncode == 0, ran.stderr
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def test_turns_beside_a_server_are_what_the_model_saw(tmp_path):
    with serving(tmp_path / "store") as (url, _):
        replies = [say(url, text) for text in SAID]
        seen = turns(tmp_path / "store")
    assert list(seen) == ["turns"]
    assert [sorted(turn) for turn in seen["turns"]] == 3 * [["generated_ids", "messages", "prompt_ids", "turn"]]
    assert [turn["turn"] for turn in seen["turns"]] == [1, 2, 3]
    line, sampled = [], []
    for said, turn, reply in zip(SAID, seen["turns"], replies):
        answer = reply["choices"][0]["message"]["content"]
        assert turn["messages"] == [{"role": "user", "content": said},
                                    {"role": "assistant", "content": answer}]
        line += turn["prompt_ids"]
        assert len(line) == reply["usage"]["prompt_tokens"]
        assert len(turn["generated_ids"]) == reply["usage"]["completion_tokens"]
        sampled += range(len(line), len(line) + len(turn["generated_ids"]))
        line += turn["generated_ids"]
    # One cold run over the joined ids has its argmax wherever a token was sampled.
    (tmp_path / "ids.txt").write_text(" ".join(map(str, line)))
    ran = tern("logits", "--tokens", tmp_path / "ids.txt", "--out", tmp_path / "logits.npy")
    assert ran.returncode == 0, ran.stderr
    best = numpy.load(tmp_path / "logits.npy").argmax(axis=1)
    assert [int(best[at - 1]) for at in sampled] == [line[at] for at in sampled]


def test_heads_and_totals_beside_a_server(tmp_path):
    with serving(tmp_path / "store") as (url, _):
        replies = [say(url, text) for text in SAID]
        overview = inspected(tmp_path / "store")
        heads = inspected(tmp_path / "store", "--heads", "--objects")
    usage = replies[-1]["usage"]
    (conversation,) = overview["conversations"]
    assert (conversation["id"], conversation["salt"], conversation["turns"]) == ("tools", "salt", 3)
    assert conversation["tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    newest = heads["heads"][-1]
    assert newest["turn"] == 3 and newest["is_complete"] and newest["conversation"] == "tools"
    assert newest["length"] == conversation["tokens"] - 1  # the last sampled one is pending
    assert overview["state"]["heads"] == len(heads["heads"])
    # Runs of superseded heads are removed a little later.
    assert overview["state"]["runs"] >= sum(one["runs"] for one in heads["objects"])
    assert {one["verdict"] for one in heads["objects"]} == {"sound"}


def test_unknown_conversation_and_wrong_salt(tmp_path):
    with serving(tmp_path / "store") as (url, _):
        say(url, SAID[0])
        for options in (["--conversation", "other", "--salt", "salt"], ["--conversation", "tools"]):
            ran = tern("inspect", "--store", tmp_path / "store", *options, "--turns", "--json")
            assert ran.returncode == 1 and ran.stdout == "", ran
            assert "no conversation" in ran.stderr


def test_dump_is_read_by_numpy_and_grows_with_the_conversation(tmp_path):
    store = tmp_path / "store"
    with serving(store) as (url, server):
        say(url, SAID[0])
        first, first_about = dumped(store, tmp_path / "first.safetensors")
        reply = say(url, SAID[1])
        server.kill()
        server.wait()
    second, about = dumped(store, tmp_path / "second.safetensors")
    length = reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"] - 1
    joined = [id for turn in turns(store)["turns"] for id in turn["prompt_ids"] + turn["generated_ids"]]
    assert json.loads(about["tokens"]) == joined[:length]
    assert (about["turn"], about["length"], about["conversation_id"]) == ("2", str(length), "tools")
    for layer in (1, 4):
        for part in ("key", "value"):
            old, new = (one[f"blk.{layer}.attn.{part}"] for one in (first, second))
            assert new.dtype == numpy.float16 and new.shape == (length, 2, 64)
            assert numpy.isfinite(new).all() and new.any(axis=(1, 2)).all()
            # What is known of a token does not change as the conversation goes on.
            assert old.tobytes() == new[:int(first_about["length"])].tobytes()
    for layer in (0, 2, 3, 5):
        assert second[f"blk.{layer}.conv"].shape == (3, 640)
        ssm = second[f"blk.{layer}.ssm"]
        assert ssm.shape == (8, 64, 64) and ssm.dtype == numpy.float32 and numpy.isfinite(ssm).all()
        assert ssm.tobytes() != first[f"blk.{layer}.ssm"].tobytes()
    # Restored from disk and gone on, the earlier head is still the same.
    with serving(store) as (url, _):
        assert say(url, SAID[2])["tern"]["tier"] == "disk"
        again, again_about = dumped(store, tmp_path / "again.safetensors", "--turn", "2")
    assert again_about == about
    assert all(again[name].tobytes() == second[name].tobytes() for name in second)


@pytest.mark.parametrize("kv,dtype", [("f32", numpy.float32), ("f16", numpy.float16)])
def test_dump_has_the_type_of_the_pool(tmp_path, kv, dtype):
    store = tmp_path / "store"
    with serving(store, "--kv", kv, "--block-size", "16") as (url, _):
        say(url, SAID[0])
        tensors, about = dumped(store, tmp_path / "head.safetensors")
    assert tensors["blk.1.attn.key"].dtype == dtype
    assert (about["kv_type"], about["block_size"]) == (kv.upper(), "16")


def test_quickstart(tmp_path):
    ran = subprocess.run([str(ROOT / "tools" / "quickstart"), "--tern", TERN], capture_output=True,
                         text=True, timeout=300, check=False, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.count("killed with SIGKILL") == 2
    assert "99 of 99 tokens reused from disk" in ran.stdout
    assert "equal bit for bit" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_quickstart_fails_loudly(tmp_path):
    liar = tmp_path / "tern"
    liar.write_text('#!/bin/bash\n[ "$1" = serve ] && { echo "cannot serve"; exit 3; }\necho tern 0\n')
    liar.chmod(0o755)
    ran = subprocess.run([str(ROOT / "tools" / "quickstart"), "--tern", str(liar)], capture_output=True,
                         text=True, timeout=60, check=False, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert ran.returncode == 1
    assert "the server ended before it served" in ran.stderr and "cannot serve" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tern"]
