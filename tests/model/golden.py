#!/usr/bin/env python3
"""The SHA-256 of what `tern logits` writes is what golden_logits.json says, on every instruction set:
a change of one bit, meant or not, shows here. Who means it gives the numerics class a new name and
writes the file anew with --write. Prints one line a case, then `N passed, N failed`.
"""
import argparse
import hashlib
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = HERE / "golden_logits.json"
MODELS = {
    "dense-f32": "tests/data/reference/granitehybrid-dense/model-f32.gguf",
    "bamba-f32": "tests/data/reference/bamba-partial-rope/model-f32.gguf",
    "quant-f16": "tests/data/reference/granitehybrid-quant/f16.gguf",
    "quant-bf16": "tests/data/reference/granitehybrid-quant/bf16.gguf",
    "quant-q8_0": "tests/data/reference/granitehybrid-quant/q8_0.gguf",
    "demo-q8_0": "engine/demo/tern-demo-q8_0.gguf",
}
TOKENS, VOCABULARY_MIN = 200, 256


def numerics_class():
    header = (ROOT / "gpu/host/kernel.h").read_text()
    return re.search(r'KERNEL_NUMERICS_CLASS "([^"]+)"', header).group(1)


def digest(tern, model, kv, isa):
    """Of the whole .npy file; None where the processor lacks the instruction set."""
    generator = random.Random(17)
    ids = " ".join(str(generator.randrange(VOCABULARY_MIN)) for _ in range(TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.npy"
        run = subprocess.run([tern, "logits", "--model", ROOT / MODELS[model], "--tokens", "-",
                              "--out", out, "--kv", kv, "--isa", isa], input=ids, text=True,
                             capture_output=True, check=False)
        if "is not there on this processor" in run.stderr:
            return None
        return hashlib.sha256(out.read_bytes()).hexdigest() if run.returncode == 0 else run.stderr


def compute(tern, isa):
    return {f"{model} {kv}": digest(tern, model, kv, isa)
            for model in MODELS for kv in ("f16", "bf16", "f32")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    parser.add_argument("--write", action="store_true", help="write the file anew")
    arguments = parser.parse_args()
    if arguments.write:
        GOLDEN.write_text(json.dumps({"numerics_class": numerics_class(),
                                      "sha256": compute(arguments.tern, "portable")}, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    passed = failed = 0
    is_class = golden["numerics_class"] == numerics_class()
    passed += is_class
    failed += not is_class
    print(f"{'ok  ' if is_class else 'FAIL'} numerics class {numerics_class()}, recorded "
          f"{golden['numerics_class']}")
    for isa in ("portable", "avx2", "avx512", "avx512vnni"):
        for case, got in compute(arguments.tern, isa).items():
            is_good = got is None or got == golden["sha256"].get(case)
            passed += is_good
            failed += not is_good
            print(f"{'ok  ' if is_good else 'FAIL'} {isa} {case}: {(got or 'skipped').strip()}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
