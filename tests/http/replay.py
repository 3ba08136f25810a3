"""One cold run over the ids of a whole conversation: what was sampled greedily is its argmax at every place."""
import numpy

import serving


def check(tern, directory, turns):
    """TURNS as `tern inspect --turns` lists them; files go to DIRECTORY."""
    (directory / "line").write_text(" ".join(map(str, serving.line_of(turns))) + "\n")
    serving.run_tern(tern, "logits", "--tokens", directory / "line", "--out", directory / "logits.npy")
    best = numpy.load(directory / "logits.npy").argmax(axis=1)
    position = 0
    for turn in turns:
        position += len(turn["prompt_ids"])
        count = len(turn["generated_ids"])
        expected = best[position - 1:position + count - 1].tolist()
        if count == 0 or expected != turn["generated_ids"]:
            raise serving.Failure(f"turn {turn['turn']}: sampled {turn['generated_ids']}, a cold run says {expected}")
        position += count
