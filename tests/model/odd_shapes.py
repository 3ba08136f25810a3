#!/usr/bin/env python3
"""`tern logits` on models of odd shapes that are made on the spot: every logit is within
1e-5 of the range of a float64 forward pass, and bitwise the same however the sequence is cut, spread
over threads, batched and stored. With Q8_0 weights the pass rounds activations to eight bits as tern
does, so that the same bound holds. Prints one line a model, then `N passed, N failed`.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import forward_numpy
import made_model
import numpy as np
from made_model import Spec

TOKENS = 75
BOUND = 1e-5

MODELS = {
    "groups": Spec(),
    "one group, two taps": Spec(groups=1, taps=2, ssm_heads=5, ssm_head_size=7, state=10),
    "a group a head, three taps": Spec(groups=6, taps=3, state=33, ssm_head_size=3),
    "kv heads as heads": Spec(heads=3, kv_heads=3, head_size=40, rope=40),
    "one kv head, partial rotation": Spec(layers="AMA", heads=5, kv_heads=1, head_size=12, rope=4,
                                          rope_divisors=True),
    "biases, separate output": Spec(has_biases=True, is_tied=False, rope=20, rope_base=500.0,
                                    attention_scale=0.11),
    "attention alone": Spec(layers="AA", hidden=17, heads=2, kv_heads=1, head_size=9),
    "recurrent alone": Spec(layers="MM", hidden=19, feed_forward=1, vocabulary=3),
    "f16, bf16 and f32 mixed": Spec(types=("f16", "bf16", "f32"), has_biases=True, is_tied=False),
    "q8_0, odd numbers of blocks": Spec(layers="MAMA", hidden=96, heads=3, kv_heads=3,
                                        head_size=32, ssm_heads=5, ssm_head_size=32, groups=5,
                                        feed_forward=224, types=("q8_0",), is_tied=False),
    "q8_0 beside f16": Spec(hidden=32, heads=8, kv_heads=2, head_size=20, ssm_heads=4,
                            ssm_head_size=24, groups=2, feed_forward=32, types=("f16", "q8_0"),
                            rope=20),
}

VARIANTS = (
    [["--chunk", str(n)] for n in (1, 7, 32, 1000)]
    + [["--threads", str(n)] for n in (1, 3)]
    + [["--isa", name] for name in ("portable", "avx2", "avx512", "avx512vnni")]
    + [["--beside", "7", "--chunk", "5"], ["--block-size", "8"], ["--block-size", "256"]]
)


def run(tern, model, tokens, out, options):
    """The file's bytes, or the complaint."""
    done = subprocess.run([tern, "logits", "--model", model, "--tokens", tokens, "--out", out,
                           *options], capture_output=True, text=True, check=False)
    return out.read_bytes() if done.returncode == 0 else done.stderr.strip()


def differing(tern, model, tokens, out):
    """The options that change a bit."""
    found = []
    for kv in ("f16", "bf16", "f32"):
        want = run(tern, model, tokens, out, ["--kv", kv, "--chunk", "64"])
        for options in VARIANTS:
            got = run(tern, model, tokens, out, ["--kv", kv, *options])
            if got != want and "is not there on this processor" not in str(got):
                found.append(" ".join(["--kv", kv, *options]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    tern = parser.parse_args().tern
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        model, tokens, out = scratch / "model.gguf", scratch / "tokens", scratch / "logits.npy"
        for seed, (name, spec) in enumerate(MODELS.items()):
            weights, quantised = made_model.make(model, spec, seed)
            ids = np.random.default_rng(100 + seed).integers(0, spec.vocabulary, TOKENS)
            tokens.write_text(" ".join(map(str, ids)))
            want = forward_numpy.logits(spec, weights, ids, quantised)
            complaint = run(tern, model, tokens, out, ["--kv", "f32"])
            if isinstance(complaint, str):
                print(f"FAIL {name}: {complaint}")
                failed += 1
                continue
            got = np.load(out).astype(np.float64)
            worst = float(np.abs(got - want).max() / (want.max() - want.min()))
            changed = differing(tern, model, tokens, out)
            is_good = got.shape == want.shape and worst <= BOUND and not changed
            passed += is_good
            failed += not is_good
            print(f"{'ok  ' if is_good else 'FAIL'} {name}: {worst:.1e} of the range "
                  f"(bound {BOUND:.0e}) {'; '.join(changed)}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
