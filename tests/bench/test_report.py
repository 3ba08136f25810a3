"""The page of figures and its plots, from small raw figures; and one whole quick run with a fake llama.cpp."""
import copy
import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/peer")]

import figures  # noqa: E402: after the path is set
import measurement  # noqa: E402
import page  # noqa: E402
import plots  # noqa: E402

TERN = os.environ.get("TERN", str(ROOT / "build/release/tern"))
REPORT = ROOT / "tests/bench/report"


def engine_case(kind, size, rate, share):
    return {"case": kind, "size": size, "tokens_per_second": rate, "seconds": 2.0, "longest_step_seconds": 0.0625,
            "peak_dot_ops_per_second": 9e11, "dot_share": 0.4, "peak_float_ops_per_second": 1.8e11,
            "peak_read_bytes_per_second": 3e10, "bandwidth_share": share,
            "ops": [{"op": "matmul 2 x 3", "runs": 4, "seconds": 0.5, "floor_seconds": 0.25}]}


def engine(rate):
    return {"isa": "avx2", "threads": 2, "load_seconds": 1.0, "model_bytes": 1e6,
            "cases": [engine_case("prefill", 512, 10 * rate, 0.1), engine_case("decode", 1, rate, 0.8),
                      engine_case("decode", 8, 3 * rate, 0.5)]}


def one_round(rate, theirs):
    entry = {"build_number": 7, "build_commit": "abcdef", "n_prompt": 512, "n_gen": 0, "avg_ts": 5 * theirs}
    return {"tern": engine(rate), "llama_bench": [entry, dict(entry, n_prompt=0, n_gen=64, avg_ts=theirs)],
            "llama_batched_bench": [{"pl": 8, "speed_tg": 1.5 * theirs}]}


def cases(**rows):
    return {"seed": "s", "cases": {name: {"rows": found, "samples": []} for name, found in rows.items()}}


RAW = {
    "machine": {"cpu": "A | B", "architecture": "x86_64", "processors": 2, "memory_bytes": 2**34, "kernel": "6.1"},
    "threads": 2, "is_quick": False, "model": {"file": "small.gguf", "bytes": 1000000}, "tern_version": "tern 0",
    "unspilled": cases(commit=[figures.row("last text to the final chunk, p99", "s", None, 0.003, "10 turns")]),
    "swap_flags": "--host-memory 1M", "device_memory": "4G", "compared_steps": 64,
    "rounds": [one_round(60, 40), one_round(90, 50), one_round(80, 20)], "engine": engine(80),
    "peer": cases(turn=[figures.row("next turn", "s", 1.0, 0.25)],
                  restart=[figures.row("after a restart: peer cold", "s", 18.0, 0.3),
                           figures.row("after a restart: peer's slot restore", "s", 1.2, 0.3, "a remark")],
                  streams=[figures.row("decode alone", "tokens/s", 50.0, 70.0)],
                  commit=[figures.row("last text to the final chunk, p99", "s", None, 0.004, "10 turns"),
                          figures.row("share of the turn's time, p99", "share", None, 0.008)]),
    "swap": cases(swap=[figures.row("turn 5 of 16 conversations, median", "s", 27.0, 0.9),
                        figures.row("turn 5 of 16 conversations, p95", "s", 30.0, 1.0)]),
    "own": {"resume": {"model": "small.gguf", "cold_ms": 12.5, "rows": [{"head": "disk", "ok": True, "ms": 1.5}]}},
}


def files(raw=None):
    return page.files_of(raw or RAW, "figures")


def test_page_has_the_figures_and_their_ratios():
    text = files()["figures.md"]
    assert "| next turn | 1 s | 250 ms | 4.00x |" in text
    assert "| after a restart: peer cold | 18 s | 300 ms | 60x |  |" in text
    assert "| after a restart: peer's slot restore | 1.2 s | 300 ms | 4.00x | a remark |" in text
    assert "| turn 5 of 16 conversations, p95 | 30 s | 1 s | 30x |" in text
    assert "| share of the turn's time, p99 | 0.8 % |" in text
    assert "| matmul" not in text and "| `matmul 2 x 3` | 25.0 % | 50 % |" in text
    assert "| disk | yes | 1.5 |" in text and "| cold_ms | 12.5 |" in text
    assert "quick run" not in text


def test_compared_rates_are_medians_of_the_rounds():
    rows = {row["name"]: (row["peer"], row["tern"], row["ratio"]) for row in page.engine_rows(RAW)}
    assert rows["prefill of 512 tokens"] == (200, 800, 4)
    assert rows["decode alone"] == (40, 80, 2)
    assert rows["decode, 8 streams"] == (60, 240, 4)


def test_page_tells_the_machine_and_escapes_it():
    text = files()["figures.md"]
    assert "A \\| B (x86_64), 2 processors" in text and "900 Gop/s" in text and "30.0 GB/s" in text
    assert "small.gguf, 1 MB" in text and "build 7, commit abcdef" in text


def test_page_without_the_optional_programs_says_so_by_dashes():
    raw = copy.deepcopy(RAW)
    for one in raw["rounds"]:
        del one["llama_bench"], one["llama_batched_bench"]
    raw["own"] = {}
    text = files(raw)["figures.md"]
    assert "| decode alone | - | 80 tokens/s | - |" in text and "tern bench resume" not in text


def test_quick_page_says_that_it_is_one():
    assert "quick run" in files(dict(RAW, is_quick=True))["figures.md"]


def test_plots_are_well_formed_and_linked():
    made = files()
    for name in ("figures-first-token.svg", "figures-streams.svg"):
        assert name in made["figures.md"]
        assert ElementTree.fromstring(made[name]).tag.endswith("svg")


def bars_of(svg):
    """Width by height of every bar, without the background and the legend."""
    rects = [one.attrib for one in ElementTree.fromstring(svg) if one.tag.endswith("rect")]
    return [(float(one["x"]), float(one["width"])) for one in rects if float(one["height"]) == 16]


def test_each_decade_of_the_plot_of_times_is_as_wide():
    bars = bars_of(plots.log_bars("t", [("one", [("a", "tern", 0.01), ("b", "llama.cpp", 0.1)]),
                                        ("two", [("c", "tern", 1.0)])]))
    widths = [width for _, width in bars]
    assert widths[2] - widths[1] == pytest.approx(widths[1] - widths[0], abs=0.2) and widths[0] > 0


def test_plot_of_times_has_each_case_once_for_tern():
    assert page.first_token_groups(RAW) == [
        ("next turn", [("llama.cpp", "llama.cpp", 1.0), ("tern", "tern", 0.25)]),
        ("after a restart", [("llama.cpp, cold", "llama.cpp", 18.0), ("llama.cpp, slot restore", "llama.cpp", 1.2),
                             ("tern", "tern", 0.3)]),
        ("turn 5 of 16 conversations, median", [("llama.cpp", "llama.cpp", 27.0), ("tern", "tern", 0.9)])]


def test_plot_of_streams_has_the_bound():
    assert page.stream_groups(RAW) == [("alone", {"tern": 80, "bound": 100, "llama.cpp": 40}),
                                       ("8 streams", {"tern": 240, "bound": 480, "llama.cpp": 60})]


def test_page_is_made_again_from_the_raw_figures(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(RAW))
    done = subprocess.run([REPORT, "--from", tmp_path / "old.json", "--out", tmp_path / "figures.md"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, text in files().items():
        assert (tmp_path / name).read_text() == text
    assert json.loads((tmp_path / "figures.json").read_text()) == RAW


def test_raw_figures_name_no_folders():
    raw = {"a": ["/tmp/x/model.gguf", 1, {"b": "/y"}], "c": "1/2"}
    assert measurement.without_folders(raw) == {"a": ["model.gguf", 1, {"b": "y"}], "c": "1/2"}


def test_report_without_its_programs_is_a_usage_error(tmp_path):
    done = subprocess.run([REPORT, "--out", tmp_path / "figures.md"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--llama-server" in done.stderr


FAKE_LLAMA_SERVER = """#!{python}
import sys, threading
sys.path.insert(0, {folder!r})
from fake_peer import FakePeer
flags = dict(zip(sys.argv, sys.argv[1:]))
FakePeer(flags["--slot-save-path"], port=int(flags["--port"]))
threading.Event().wait()
"""


def test_quick_run_makes_every_file(tmp_path):
    """The real tern with the demo model's file, and a peer that plays llama-server."""
    server = tmp_path / "llama-server"
    server.write_text(FAKE_LLAMA_SERVER.format(python=sys.executable, folder=str(ROOT / "tests/peer")))
    server.chmod(0o755)
    done = subprocess.run([REPORT, "--tern", TERN, "--llama-server", server, "--quick", "--threads", "1",
                           "--model", ROOT / "engine/demo/tern-demo-q8_0.gguf", "--swap-flags",
                           "--device-memory 64M --host-memory 16M", "--out", tmp_path / "figures.md"],
                          capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "figures.md").read_text()
    assert str(tmp_path) not in text and "quick run" in text
    raw = json.loads((tmp_path / "figures.json").read_text())
    assert str(tmp_path) not in json.dumps(raw) and raw["swap"]["cases"]["swap"]["rows"]
