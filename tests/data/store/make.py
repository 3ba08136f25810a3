#!/usr/bin/env python3
"""Makes store.tar.xz and expected.json: a store as the server of today leaves it, and how it goes on.

usage: tests/data/store/make.py [--tern BINARY]

Three conversations with tests/data/gguf/tiny-q8_0.gguf, of three, two and one turn, under a small --disk.
A state belongs to one model, so the model is a committed file: the demo model may change with a build.
expected.json has what a server that ran all turns by itself, with no store to start from, says of each
conversation's next turn: its text and the digest of its logits. Not run as a test: the archive is
there so that later versions are held against a store that an earlier one wrote; it is made again
only where the format has changed on purpose, beside the older one.
"""
import argparse
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "http"))

import serving  # noqa: E402

MODEL = HERE.parent / "gguf" / "tiny-q8_0.gguf"
FLAGS = ("--model", str(MODEL), "--disk", "16M", "--ledger-reserve", "1M", "--threads", "1")
SAID = {"cello": ["My name is Tara and I play the cello.", "I live in Oslo."], "bees": ["Anton breeds bees in Graz.", "He is my brother.", "And a painter."],
        "short": ["Hi."]}
NEXT = {"cello": "What is my name?", "bees": "What does Anton breed?", "short": "Who am I?"}
FILES = ("LOCK", "CLEAN", "secret", "ledger/data.mdb", "state/data.mdb")


def say(server, name, text):
    body = serving.turn_body(name, text, max_tokens=6, cache_salt="kept", conversation_durability="state")
    return serving.chat(server, body).expect(name)


def run(tern, store, asks):
    with serving.Server(tern, store, *FLAGS) as server:
        answers = {name: [say(server, name, text) for text in texts] for name, texts in asks.items()}
        server.drain()
    return answers


def plain(entry):
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tern", default=str(serving.ROOT / "build" / "release" / "tern"))
    tern = parser.parse_args().tern
    directory = pathlib.Path(tempfile.mkdtemp())
    run(tern, directory / "store", SAID)
    answers = run(tern, directory / "cold", {name: texts + [NEXT[name]] for name, texts in SAID.items()})
    expected = {name: {"turn": len(SAID[name]), "next": NEXT[name], "text": said[-1].text,
                       "logits_digest": said[-1].tern["logits_digest"],
                       "tokens_reused": said[-1].tern["tokens_reused"]} for name, said in answers.items()}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    with tarfile.open(HERE / "store.tar.xz", "w:xz", preset=9) as archive:
        for name in FILES:
            archive.add(directory / "store" / name, name, filter=plain)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
