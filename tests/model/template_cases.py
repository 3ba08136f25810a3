#!/usr/bin/env python3
"""`tern render` writes what Jinja writes (tests/data/templates), and says what it refuses.

Prints what differs, then `N passed, N failed`.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
VOCABULARY = DATA / "tokenizers" / "dbrx" / "vocab.gguf"
MODEL = DATA / "reference" / "granitehybrid-dense" / "model-f32.gguf"
PLAIN_EVERY = 25  # every so many cases one by the plain way, which starts a process each
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "<|eos|>"}]
TEXT = "<|role|>system<|end_role|>Be kind.<|eos|>\n<|role|>user<|end_role|><|eos|><|eos|>\n"
GENERATION = "<|role|>assistant<|end_role|>"


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, is_good, what):
        self.passed += bool(is_good)
        self.failed += not is_good
        if not is_good:
            print(f"FAIL {what}")


def run(tern, *arguments, given=b""):
    return subprocess.run([tern, "render", *arguments], input=given, capture_output=True,
                          check=False)


def read_lines(text):
    return [json.loads(line) for line in text.decode("utf-8").split("\n") if line]


def is_right(case, answer):
    if "text" in answer:
        return answer == {"text": case.get("text")}
    return "chat template, line " in answer["error"] and (case["is_other"] or "text" not in case)


def check_cases(tern, tally):
    given = (DATA / "templates" / "cases.jsonl").read_bytes()
    cases = read_lines(given)
    ran = run(tern, "--model", VOCABULARY, "--jsonl", given=given)
    answers = read_lines(ran.stdout)
    tally.check(ran.returncode == 0 and len(answers) == len(cases) > 600, f"jsonl: {ran.stderr}")
    for case, answer in zip(cases, answers):
        tally.check(is_right(case, answer), f"{case} gives {answer}")
    texts = sum("text" in answer for answer in answers)
    tally.check(texts > len(cases) / 2, f"only {texts} of {len(cases)} templates are understood")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "template"
        for case in [case for case in cases if "text" in case and not case["is_other"]][::PLAIN_EVERY]:
            path.write_bytes(case["template"].encode())
            options = [] if case["add_generation_prompt"] else ["--no-generation-prompt"]
            ran = run(tern, "--model", VOCABULARY, "--template", path, *options,
                      given=json.dumps(case["messages"]).encode())
            tally.check(ran.returncode == 0 and ran.stdout == case["text"].encode(),
                        f"plain: {case} gives {ran}")


def check_model(tern, tally):
    """The model's own template, and its ids."""
    given = json.dumps(MESSAGES).encode()
    ran = run(tern, "--model", MODEL, given=given)
    tally.check(ran.returncode == 0 and ran.stdout.decode() == TEXT + GENERATION, f"{ran}")
    ran = run(tern, "--model", MODEL, "--no-generation-prompt", given=given)
    tally.check(ran.returncode == 0 and ran.stdout.decode() == TEXT, f"{ran}")
    ran = run(tern, "--model", MODEL, "--ids", given=given)
    answer = json.loads(ran.stdout)
    tokenize = [tern, "tokenize", "--model", MODEL, "--no-bos"]
    own = json.loads(subprocess.run([*tokenize, "--parse-special"], check=True, capture_output=True,
                                    input=GENERATION.encode()).stdout)["ids"]
    tally.check(answer["ids"][answer["prompt_end"]:] == own, f"{answer} does not end in {own}")
    quoted = json.loads(subprocess.run(tokenize, check=True, capture_output=True,
                                       input=b"<|eos|>").stdout)["ids"]
    tally.check(len(quoted) > 1 and str(quoted)[1:-1] in str(answer["ids"]),
                f"{answer} does not hold {quoted}")
    line = json.dumps({"messages": MESSAGES}).encode()
    ran = run(tern, "--model", MODEL, "--ids", "--jsonl", given=line + b"\n" + line)
    tally.check(read_lines(ran.stdout) == [answer, answer], f"{ran}")


def check_failures(tern, tally):
    model = ["--model", MODEL]
    # arguments, standard input, exit code, what standard error must hold
    cases = [
        ([], b"", 1, "line 1"),
        ([*model, "--ids", "--no-generation-prompt"], b"[]", 2, "--ids"),
        (["--model", "/nonexistent"], b"[]", 1, "/nonexistent"),
        (["--model", VOCABULARY], b"[]", 1, "tokenizer.chat_template"),
        ([*model, "--template", "/nonexistent"], b"[]", 1, "/nonexistent"),
        ([*model, "--template", __file__], b"[]", 1, "chat template, line "),
        (model, b"", 1, "line 1"),
        (model, b"{}", 1, "array"),
        (model, b'[{"role": "user"}]', 1, '"content"'),
        (model, b'[{"role": 1, "content": ""}]', 1, '"role"'),
        ([*model, "--jsonl"], b'{"messages": []}\n{"messages": 1}', 1, "line 2"),
    ]
    for arguments, given, code, words in cases:
        ran = run(tern, *arguments, given=given)
        message = ran.stderr.decode()
        tally.check(ran.returncode == code and message.startswith("tern render: ")
                    and words in message, f"{arguments}: {ran}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tern", required=True)
    options = parser.parse_args()
    tally = Tally()
    check_cases(options.tern, tally)
    check_model(options.tern, tally)
    check_failures(options.tern, tally)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
