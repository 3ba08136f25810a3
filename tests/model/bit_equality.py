#!/usr/bin/env python3
"""`tern logits` writes bitwise the same file however a sequence of 1,500 tokens is cut into chunks,
spread over threads, computed by one instruction set or another, and batched with other sequences,
in every KV type. Prints one line a model and KV type, then `N passed, N failed`.
"""
import argparse
import hashlib
import pathlib
import random
import subprocess
import sys
import tempfile

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
DEMO = pathlib.Path(__file__).resolve().parents[2] / "engine" / "demo" / "tern-demo-q8_0.gguf"

BASE = ["--chunk", "64"]
VARIANTS = (
    [["--chunk", str(n)] for n in (1, 7, 32, 1000)]
    + [["--threads", str(n)] for n in (1, 2, 3)]
    + [["--isa", name] for name in ("portable", "avx2", "avx512")]
    + [["--beside", "7"], ["--beside", "7", "--chunk", "7", "--threads", "3"]]
    + [["--block-size", str(n)] for n in (8, 128)]
)


def random_tokens(path, vocabulary, count, seed):
    generator = random.Random(seed)
    path.write_text(" ".join(str(generator.randrange(vocabulary)) for _ in range(count)))
    return path


def digest(tern, model, tokens, out, options):
    run = subprocess.run([tern, "logits", "--model", model, "--tokens", tokens, "--out", out, *options],
                         capture_output=True, text=True)
    if run.returncode != 0:
        return run.stderr.strip()
    return hashlib.sha256(out.read_bytes()).hexdigest()


def is_missing_isa(options, result):
    """An instruction set that this processor lacks is an error, and no failure of this test."""
    return "--isa" in options and "is not there on this processor" in result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    arguments = parser.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        out = scratch / "logits.npy"
        dense = DATA / "reference" / "granitehybrid-dense"
        rope = DATA / "reference" / "granitehybrid-rope"
        quant = DATA / "reference" / "granitehybrid-quant"
        models = [
            (dense / "model-f32.gguf", dense / "long-tokens.txt"),
            (rope / "model-f32.gguf", rope / "long-tokens.txt"),
            (quant / "f16.gguf", random_tokens(scratch / "f16", 272, 1500, 1)),
            (quant / "bf16.gguf", random_tokens(scratch / "bf16", 272, 1500, 2)),
            (DEMO, random_tokens(scratch / "demo", 2048, 1500, 3)),
        ]
        for model, tokens in models:
            for kv in ("f16", "bf16", "f32"):
                want = digest(arguments.tern, model, tokens, out, BASE + ["--kv", kv])
                wrong = []
                for options in VARIANTS:
                    got = digest(arguments.tern, model, tokens, out, options + ["--kv", kv])
                    if got != want and not is_missing_isa(options, got):
                        wrong.append(f"{' '.join(options)}: {got}")
                is_good = not wrong and len(want) == 64
                passed += is_good
                failed += not is_good
                print(f"{'ok  ' if is_good else 'FAIL'} {model.parent.name}/{model.name} {kv}: "
                      f"{want[:16]} {'; '.join(wrong)}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
