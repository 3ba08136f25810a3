"""A store that an earlier version wrote (tests/data/store) opens and goes on, from its state on disk."""
import json
import os
import pathlib
import subprocess
import tarfile

import pytest
import serving

TERN = os.environ.get("TERN", str(serving.ROOT / "build" / "release" / "tern"))
KEPT = pathlib.Path(__file__).resolve().parents[1] / "data" / "store"
MODEL = KEPT.parent / "gguf" / "tiny-q8_0.gguf"
EXPECTED = json.loads((KEPT / "expected.json").read_text())


def verify(store):
    ran = subprocess.run([TERN, "verify", "--store", str(store), "--json"], capture_output=True, text=True, timeout=120,
                         check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)["summary"]


@pytest.fixture(name="store")
def fixture_store(tmp_path):
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    for folder in ("ledger", "state"):
        (store / folder).mkdir(mode=0o700)
    with tarfile.open(KEPT / "store.tar.xz") as archive:
        for entry in archive.getmembers():
            path = store / entry.name
            path.write_bytes(archive.extractfile(entry).read())
            path.chmod(0o600)
    return store


def test_kept_store_is_sound(store):
    summary = verify(store)
    assert summary["conversations"] == len(EXPECTED)
    assert summary["turns"] == sum(one["turn"] for one in EXPECTED.values())
    assert summary["heads"] >= len(EXPECTED)


def test_kept_store_goes_on_from_its_state_on_disk(store):
    flags = ("--model", MODEL, "--disk", "32M", "--ledger-reserve", "1M", "--threads", "2")
    with serving.Server(TERN, store, *flags) as server:
        for name, expected in EXPECTED.items():
            body = serving.turn_body(name, expected["next"], max_tokens=6, cache_salt="kept",
                                     conversation_expected_turn=expected["turn"], conversation_durability="state")
            answer = serving.chat(server, body).expect(name)
            assert answer.tern["tier"] == "disk", answer.tern
            assert answer.tern["tokens_reused"] == expected["tokens_reused"]
            assert answer.tern["logits_digest"] == expected["logits_digest"]
            assert answer.text == expected["text"]
        verify(store)
        server.drain()
    assert verify(store)["turns"] == sum(one["turn"] + 1 for one in EXPECTED.values())
