#!/usr/bin/env python3
"""`tern generate` without --model: the demo model answers its example prompts as in training.

The examples were made with exact activations, tern rounds them to eight bits: an answer may differ
only where the smallest margin between the two best logits is below MARGIN.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARGIN = 0.1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tern", required=True, help="the binary under test")
    arguments = parser.parse_args()
    passed = failed = 0
    for line in (ROOT / "tests/data/demo/example.jsonl").read_text().splitlines():
        case = json.loads(line)
        run = subprocess.run([arguments.tern, "generate", "--prompt", case["prompt"]],
                             capture_output=True, text=True, check=True)
        answer = run.stdout.rstrip("\n")
        is_good = answer == case["answer"] or case["smallest_margin"] < MARGIN
        passed += is_good
        failed += not is_good
        print(f"{'ok  ' if answer == case['answer'] else 'DIFF'} {case['user']!r}: {answer!r}"
              + ("" if answer == case["answer"] else
                 f" (expected {case['answer']!r}, margin {case['smallest_margin']})"))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
