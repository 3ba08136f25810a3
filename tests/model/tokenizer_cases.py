#!/usr/bin/env python3
"""`tern tokenize` and `tern detokenize` give what other libraries gave (tests/data/tokenizers).

All cases through --jsonl, some of them through the plain way, and the exit codes and messages of
both subcommands. Prints what differs, then `N passed, N failed`.
"""
import argparse
import json
import pathlib
import subprocess
import sys

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "tokenizers"
FOLDERS = ["gpt-2", "dbrx", "llama-bpe", "default"]
PLAIN_EVERY = 20  # every so many cases one by the plain way, which starts a process each


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, is_good, what):
        self.passed += bool(is_good)
        self.failed += not is_good
        if not is_good:
            print(f"FAIL {what}")


def read_lines(text):
    return [json.loads(line) for line in text.decode("utf-8").split("\n") if line]


def run(tern, *arguments, given=b""):
    return subprocess.run([tern, *arguments], input=given, capture_output=True, check=False)


def check_tokenize(tern, folder, tally):
    vocabulary = DATA / folder / "vocab.gguf"
    given = (DATA / folder / "cases.jsonl").read_bytes()
    cases = read_lines(given)
    ran = run(tern, "tokenize", "--model", vocabulary, "--jsonl", given=given)
    answers = read_lines(ran.stdout)
    tally.check(ran.returncode == 0 and len(answers) == len(cases) > 500, f"{folder}: {ran.stderr}")
    for case, answer in zip(cases, answers):
        tally.check(answer == {"ids": case["ids"]}, f"{folder}: {case} gives {answer}")
    for case in cases[::PLAIN_EVERY]:
        options = ["--parse-special"] if case["parse_special"] else []
        for is_bare in (False, True):
            ran = run(tern, "tokenize", "--model", vocabulary, *options,
                      *(["--no-bos"] if is_bare else []), given=case["text"].encode())
            want = case["ids"][1:] if is_bare and case["add_bos"] else case["ids"]
            tally.check(ran.returncode == 0 and json.loads(ran.stdout) == {"ids": want},
                        f"{folder}: plain {case} gives {ran.stdout}")


def check_detokenize(tern, folder, tally):
    vocabulary = DATA / folder / "vocab.gguf"
    given = (DATA / folder / "detok.jsonl").read_bytes()
    cases = read_lines(given)
    ran = run(tern, "detokenize", "--model", vocabulary, "--jsonl", given=given)
    answers = read_lines(ran.stdout)
    tally.check(ran.returncode == 0 and len(answers) == len(cases) > 90, f"{folder}: {ran.stderr}")
    for case, answer in zip(cases, answers):
        want = {"text": case["text"], "pieces": case["pieces"]}
        tally.check(answer == want, f"{folder}: {case} gives {answer}")
    for number, case in enumerate(cases[::PLAIN_EVERY]):
        ids = "\n ".join(str(token) for token in case["ids"])
        given = (("tokens: " if number % 2 else "") + ids).encode()
        ran = run(tern, "detokenize", "--model", vocabulary,
                  *(["--special"] if case["special"] else []), given=given)
        want = {"text": case["text"], "pieces": case["pieces"]}
        tally.check(ran.returncode == 0 and json.loads(ran.stdout) == want,
                    f"{folder}: plain {case} gives {ran.stdout}")


def check_bytes(tern, tally):
    """Text that JSON cannot hold, and NUL in text that it can."""
    vocabulary = DATA / "gpt-2" / "vocab.gguf"
    text = b"a\0b\xff\xfe \xe3\x83 \xed\xa0\x80 <|bos|>\xf0\x9f\x98"
    ran = run(tern, "tokenize", "--model", vocabulary, given=text)
    ids = json.loads(ran.stdout)["ids"]
    ran = run(tern, "detokenize", "--model", vocabulary, given=" ".join(map(str, ids)).encode())
    answer = json.loads(ran.stdout)
    tally.check(bytes.fromhex("".join(answer["pieces"])) == text, f"bytes: {answer}")
    tally.check(answer["text"] == text.decode("utf-8", "replace"), f"bytes: {answer}")
    ran = run(tern, "tokenize", "--model", vocabulary, "--jsonl", given=b'{"text": "\\u0000x"}\n\n')
    tally.check(ran.returncode == 0 and len(read_lines(ran.stdout)) == 1, f"NUL: {ran}")


def check_failures(tern, tally):
    model = ["--model", DATA / "gpt-2" / "vocab.gguf"]
    # arguments, standard input, exit code, what standard error begins with and must hold
    cases = [
        ([], b"", 2, "usage: tern", "tokenize"),
        (["nothing"], b"", 2, "tern: ", "'nothing'"),
        (["--nothing"], b"", 2, "tern: ", "'--nothing'"),
        (["tokenize", *model, "--nothing"], b"", 2, "tern tokenize: ", "'--nothing'"),
        (["tokenize", *model, "more"], b"", 2, "tern tokenize: ", "'more'"),
        (["tokenize", "--model"], b"", 2, "tern tokenize: ", "--model"),
        (["tokenize", "--model", "/nonexistent"], b"", 1, "tern tokenize: ", "/nonexistent"),
        (["tokenize", "--model", __file__], b"", 1, "tern tokenize: ", "tokenizer_cases.py"),
        (["tokenize", *model, "--jsonl"], b'{"text": ""}\n{"text": 1}', 1, "tern tokenize: ",
         "line 2"),
        (["tokenize", *model, "--jsonl"], b'{"text": "", "add_bos": 1}', 1, "tern tokenize: ",
         "add_bos"),
        (["tokenize", *model, "--jsonl"], b"[]", 1, "tern tokenize: ", "line 1"),
        (["tokenize", *model, "--jsonl"], b"{", 1, "tern tokenize: ", "line 1"),
        (["detokenize", *model], b"1 2x", 1, "tern detokenize: ", "'2x'"),
        (["detokenize", *model], b"1 tokens:", 1, "tern detokenize: ", "'tokens:'"),
        (["detokenize", *model], b"1 -2", 1, "tern detokenize: ", "'-2'"),
        (["detokenize", *model], b"1\x00", 1, "tern detokenize: ", "''"),
        (["detokenize", *model], b"99999", 1, "tern detokenize: ", "99999"),
        (["detokenize", *model, "--jsonl"], b'{"ids": [1, "2"]}', 1, "tern detokenize: ",
         "element 1"),
        (["detokenize", *model, "--jsonl"], b'{"ids": [99999999999]}', 1, "tern detokenize: ",
         "element 0"),
    ]
    for arguments, given, code, begin, part in cases:
        ran = run(tern, *arguments, given=given)
        error = ran.stderr.decode()
        tally.check(ran.returncode == code and error.startswith(begin) and part in error,
                    f"{arguments}: {ran}")
    for arguments in (["--help"], ["--version"], ["tokenize", "--help"], ["detokenize", "--help"]):
        ran = run(tern, *arguments)
        tally.check(ran.returncode == 0 and b"tern" in ran.stdout and not ran.stderr,
                    f"{arguments}: {ran}")
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([tern, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
        tally.check(ran.returncode == 1, f"a full disk: {ran}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    tern = parser.parse_args().tern
    tally = Tally()
    for folder in FOLDERS:
        check_tokenize(tern, folder, tally)
        check_detokenize(tern, folder, tally)
    check_bytes(tern, tally)
    check_failures(tern, tally)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
