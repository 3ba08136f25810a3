#!/usr/bin/env python3
"""The command line of `tern` from outside: help, exit codes and what the complaints name, files that
are missing, empty, cut or of another kind, outputs that cannot be written, and what `model` and
`generate` print. Prints what is wrong, then `N passed, N failed`.
"""
import argparse
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "engine/demo/tern-demo-q8_0.gguf"
DENSE = ROOT / "tests/data/reference/granitehybrid-dense/model-f32.gguf"
VOCABULARY = ROOT / "tests/data/gguf/vocab-bpe.gguf"
COMMANDS = ["generate", "logits", "model", "tokenize", "detokenize"]
DONE, FAILED, USAGE = 0, 1, 2


class Check:
    def __init__(self, tern):
        self.tern = tern
        self.passed = 0
        self.failed = 0

    def holds(self, is_good, what):
        self.passed += bool(is_good)
        self.failed += not is_good
        if not is_good:
            print(f"FAIL {what}")

    def run(self, *arguments, given=b"", **options):
        return subprocess.run([self.tern, *arguments], input=given, capture_output=True, check=False,
                              timeout=120, **options)

    def refuses(self, code, named, *arguments, given=b""):
        """The exit code, one line of complaint that names what is wrong, and nothing printed."""
        run = self.run(*arguments, given=given)
        error = run.stderr.decode("utf-8", "replace")
        self.holds(run.returncode == code and error.startswith("tern") and named in error
                   and error.count("\n") == 1 and not run.stdout,
                   f"{' '.join(map(str, arguments))}: exit {run.returncode}, expected {code} naming "
                   f"{named!r}: {error!r}")


def check_help(check):
    run = check.run("--help")
    text = run.stdout.decode()
    check.holds(run.returncode == DONE and not run.stderr, "--help")
    check.holds("exit codes: 0 done, 1 failed" in text and "2 wrong usage" in text,
                "--help documents exit codes")
    for command in COMMANDS:
        check.holds(f"  {command} " in text, f"--help lists {command}")
        run = check.run(command, "--help")
        text_of = run.stdout.decode()
        check.holds(run.returncode == DONE and not run.stderr
                    and text_of.startswith(f"usage: tern {command}") and "--" in text_of,
                    f"{command} --help: {run}")
        for option in ("--nonsense", "-x", "--nonsense=3"):
            check.refuses(USAGE, option.split("=")[0], command, option)
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    check.holds(sorted(listed) == sorted(set(listed)) and set(COMMANDS) <= set(listed),
                f"commands: {listed}")
    check.holds(check.run().returncode == USAGE, "without a command")
    check.refuses(USAGE, "'nonsense'", "nonsense")


def check_option_values(check, scratch):
    logits = ["logits", "--model", DEMO, "--tokens", scratch / "tokens", "--out", scratch / "x.npy"]
    for option, value, code in [
            ("--chunk", "0", USAGE), ("--chunk", "x", USAGE), ("--chunk", "", USAGE),
            ("--chunk", "7x", USAGE), ("--chunk", "99999999999999999999", USAGE),
            ("--threads", "-1", USAGE), ("--threads", "257", USAGE), ("--beside", "64", USAGE),
            ("--block-size", "4", USAGE), ("--block-size", "33", FAILED),
            ("--kv", "f64", FAILED), ("--kv", "Q8_0", FAILED), ("--isa", "sse", FAILED)]:
        check.refuses(code, value if code == FAILED else option, *logits, option, value)
        check.holds(not (scratch / "x.npy").exists(), f"{option} {value} leaves no file")
    check.refuses(USAGE, "--chunk", *logits, "--chunk")
    check.refuses(USAGE, "'more'", *logits, "more")
    for missing in ("--tokens", "--out"):
        at = logits.index(missing)
        check.refuses(USAGE, missing, *(logits[:at] + logits[at + 2:]))
    check.refuses(USAGE, "--prompt", "generate", "--model", DEMO)
    check.refuses(USAGE, "'two'", "model", DEMO, "two")


def check_instruction_sets(check, scratch):
    flags = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    needs = {"portable": set(), "avx2": {"avx2", "fma", "f16c"},
             "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
             "avx512vnni": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}}
    for name, need in needs.items():
        arguments = ["logits", "--model", DEMO, "--tokens", scratch / "tokens", "--out",
                     scratch / "isa.npy", "--isa", name]
        if need <= flags:
            check.holds(check.run(*arguments).returncode == DONE, f"--isa {name}")
        else:
            check.refuses(FAILED, f"'{name}'", *arguments)


def check_models(check, scratch):
    empty, text, cut = scratch / "empty", scratch / "text", scratch / "cut.gguf"
    empty.write_bytes(b"")
    text.write_text("not a model at all, but long enough for a header of one\n" * 3)
    whole = DENSE.read_bytes()
    cut.write_bytes(whole[:len(whole) * 2 // 3])
    wrong_version = scratch / "version.gguf"
    wrong_version.write_bytes(whole[:4] + b"\x02" + whole[5:])
    secret = scratch / "secret.gguf"
    secret.write_bytes(whole)
    for model, named in [(scratch / "missing.gguf", "missing.gguf"), (scratch, str(scratch)),
                         (empty, "empty"), (text, "text"), (cut, "cut.gguf"),
                         (wrong_version, "version"), (VOCABULARY, "")]:
        check.refuses(FAILED, named, "logits", "--model", model, "--tokens", scratch / "tokens",
                      "--out", scratch / "y.npy")
        check.refuses(FAILED, named, "generate", "--model", model, "--prompt", "x")
        check.refuses(FAILED, named, "model", model)
    check.holds(not (scratch / "y.npy").exists(), "a model that fails leaves no file")
    if os.geteuid() != 0:
        secret.chmod(0)
        check.refuses(FAILED, "secret.gguf", "model", secret)


def check_tokens(check, scratch):
    bad = scratch / "bad"
    out = scratch / "z.npy"
    for content, named in [(b"1 two 3", "'two'"), (b"1 -2", "'-2'"), (b"1.5", "'1.5'"),
                           (b"", "0 token ids"), (b"tokens:", "0 token ids"),
                           (b"1 2048", "2048"), (b"5 2147483647", "2147483647"),
                           (b"99999999999", "'99999999999'"), (b"\x00", "token id")]:
        bad.write_bytes(content)
        check.refuses(FAILED, named, "logits", "--model", DEMO, "--tokens", bad, "--out", out)
        check.holds(not out.exists(), f"tokens {content!r} leave no file")
    check.refuses(FAILED, "missing", "logits", "--model", DEMO, "--tokens", scratch / "missing",
                  "--out", out)
    run = check.run("logits", "--model", DEMO, "--tokens", "-", "--out", out, given=b"tokens: 1 2\n3")
    check.holds(run.returncode == DONE and out.stat().st_size == 128 + 3 * 2048 * 4,
                f"tokens from standard input: {run.stderr}")


def check_outputs(check, scratch):
    arguments = ["logits", "--model", DEMO, "--tokens", scratch / "tokens", "--out"]
    check.refuses(FAILED, "nowhere/x.npy", *arguments, scratch / "nowhere/x.npy")
    check.refuses(FAILED, str(scratch), *arguments, scratch)
    check.refuses(FAILED, "/dev/full", *arguments, "/dev/full")
    check.holds(stat.S_ISCHR(os.stat("/dev/full").st_mode), "/dev/full is still there")
    for command in (["model", DEMO], ["model", DEMO, "--json"],
                    ["generate", "--model", DEMO, "--prompt", "x", "--max-tokens", "2"]):
        with open("/dev/full", "wb") as full:
            run = subprocess.run([check.tern, *command], stdout=full, stderr=subprocess.PIPE,
                                 check=False)
        check.holds(run.returncode == FAILED and run.stderr, f"{command} to a full disk: {run}")


def check_model_fields(check):
    run = check.run("model", DEMO, "--json")
    fields = json.loads(run.stdout)
    want = {"architecture": "granitehybrid", "terminal_state_bytes": 555008,
            "kv_bytes_per_token": 1024, "kv_type": "F16", "block_size": 32, "vocabulary": 2048,
            "kv_block_bytes": 32 * 1024}
    check.holds(run.returncode == DONE and {key: fields.get(key) for key in want} == want,
                f"model --json: {fields}")
    check.holds(len(fields["layer_kinds"]) == fields["layers"]
                == sum(fields["groups"].values()), f"layers: {fields}")
    check.holds({"F32", "Q8_0"} <= set(fields["weight_tensors"]), f"weight types: {fields}")
    check.holds(check.run("model", "--json").stdout == run.stdout, "the demo model is the default")
    text = check.run("model", DEMO).stdout.decode()
    for part in ("granitehybrid", "555008 bytes", "1024 bytes", "Q8_0", "F16"):
        check.holds(part in text, f"model prints {part}: {text}")
    wide = json.loads(check.run("model", DEMO, "--json", "--kv", "f32", "--block-size", "8").stdout)
    check.holds(wide["kv_bytes_per_token"] == 2048 and wide["kv_block_bytes"] == 8 * 2048
                and wide["terminal_state_bytes"] == 555008, f"model --kv f32: {wide}")


def check_generate(check):
    def generate(*options, prompt="The"):
        run = check.run("generate", "--model", DEMO, "--prompt", prompt, "--max-tokens", "24",
                        *options)
        check.holds(run.returncode == DONE and not run.stderr, f"generate {options}: {run.stderr}")
        return run.stdout

    check.holds(generate() == generate() == generate("--temperature", "0", "--seed", "9"),
                "greedy is reproducible and takes no seed")
    warm = ["--temperature", "1.5", "--seed"]
    check.holds(generate(*warm, "1") == generate(*warm, "1"), "a seed gives the same text again")
    check.holds(len({generate(*warm, str(seed)) for seed in range(6)}) > 1, "seeds differ")
    check.holds(generate(*warm, "1") == generate(*warm, "1", "--threads", "1", "--isa", "portable"),
                "threads and instruction set change nothing")
    check.holds(generate(*warm, "3", "--top-k", "1") == generate(), "--top-k 1 is greedy")
    for prompt in ("Grüße, 世界 🙂", "e\u0301", "\u200b", "a\tb\nc"):
        generate(prompt=prompt).decode("utf-8")
    generate(prompt=b"\xff\xfe broken \xe2\x82").decode("utf-8")
    check.refuses(FAILED, "no tokens", "generate", "--model", DEMO, "--prompt", "")
    check.refuses(FAILED, "context", "generate", "--model", DEMO, "--prompt", "x", "--max-tokens",
                  "1048576")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    check = Check(parser.parse_args().tern)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        (scratch / "tokens").write_text("tokens: 1 2 3 4 5 6 7 8 9")
        check_help(check)
        check_option_values(check, scratch)
        check_instruction_sets(check, scratch)
        check_models(check, scratch)
        check_tokens(check, scratch)
        check_outputs(check, scratch)
        check_model_fields(check)
        check_generate(check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
