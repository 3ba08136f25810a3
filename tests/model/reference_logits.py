#!/usr/bin/env python3
"""Compares `tern logits` with logits that other implementations computed (tests/data/reference).

With F32 weights and F32 KV every logit is within 1e-5 of the range of the reference's, and the most
likely token is the same wherever the reference's margin exceeds that; F16 and BF16 weights likewise,
Q8_0 within 1 % of the range. Prints one line a case, then `N passed, N failed`.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "reference"

# model file, tokens, reference rows (the last ones of the run), bound as a share of the range
CASES = [
    ("granitehybrid-dense/model-f32.gguf", "tokens.txt", "logits.npy", 1e-5),
    ("granitehybrid-dense/model-f32.gguf", "long-tokens.txt", "long-logits-last16.npy", 1e-5),
    ("granitehybrid-rope/model-f32.gguf", "tokens.txt", "logits.npy", 1e-5),
    ("granitehybrid-rope/model-f32.gguf", "long-tokens.txt", "long-logits-last16.npy", 1e-5),
    ("granitehybrid-tiny/tiny-f32.gguf", "tiny_tokens.txt", "tiny_logits.npy", 1e-5),
    ("bamba-partial-rope/model-f32.gguf", "tokens.txt", "logits.npy", 1e-5),
    ("granitehybrid-quant/f16.gguf", "tokens.txt", "f16.logits.npy", 1e-5),
    ("granitehybrid-quant/bf16.gguf", "tokens.txt", "bf16.logits.npy", 1e-5),
    ("granitehybrid-quant/q8_0.gguf", "tokens.txt", "q8_0.logits.npy", 1e-2),
]


def run_tern(tern, model, tokens, isa):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.npy"
        subprocess.run([tern, "logits", "--model", model, "--tokens", tokens, "--out", out,
                        "--kv", "f32", "--isa", isa], check=True)
        return np.load(out)


def check(got, want, bound):
    """The worst difference as a share of the range, and the rows whose best token differs."""
    rows = got[-len(want):]
    spread = float(want.max() - want.min())
    worst = float(np.abs(rows.astype(np.float64) - want).max()) / spread
    order = np.sort(want, axis=1)
    is_clear = (order[:, -1] - order[:, -2]) > bound * spread
    wrong = int(((rows.argmax(axis=1) != want.argmax(axis=1)) & is_clear).sum())
    return worst, wrong, bool(np.isfinite(got).all())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    parser.add_argument("--isa", default="auto")
    arguments = parser.parse_args()
    passed = failed = 0
    for model, tokens, reference, bound in CASES:
        path = DATA / model
        want = np.load(path.parent / reference)
        got = run_tern(arguments.tern, path, path.parent / tokens, arguments.isa)
        worst, wrong, is_finite = check(got, want, bound)
        is_good = worst <= bound and wrong == 0 and is_finite and got.shape[1] == want.shape[1]
        passed += is_good
        failed += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {model} {reference}: {worst:.2e} of the range "
              f"(bound {bound:.0e}), {wrong} other best tokens")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
