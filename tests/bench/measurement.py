"""Measures everything that the page of figures is made of: a dictionary of what each program printed.

Programs that compare take turns, so that the noise of a shared machine meets both. Names of files stand
in the result without their folders.
"""
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

import machine_info
from server_process import ServerProcess, free_port

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peer"))

import endpoints  # noqa: E402: after the path is set
import peer_cases  # noqa: E402

PROGRAM_S = 3600
BATCH_PROMPT = 128


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_program(argv):
    """What it printed."""
    argv = [str(part) for part in argv]
    say("   " + " ".join([pathlib.Path(argv[0]).name, *argv[1:]]))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          timeout=PROGRAM_S)
    if done.returncode != 0:
        raise RuntimeError(f"{pathlib.Path(argv[0]).name}: exit status {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


def run_json(argv):
    return json.loads(run_program(argv))


def run_json_lines(argv):
    return [json.loads(line) for line in run_program(argv).splitlines() if line.startswith("{")]


def without_folders(value):
    """A copy in which of each path only the file's name is left."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    return value.rsplit("/", 1)[1] if isinstance(value, str) and value.startswith("/") else value


class Measurement:
    """OPTIONS are those of tests/bench/report."""

    def __init__(self, options):
        self.options = options
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tern-report-"))
        self.model = ["--model", options.model]

    def measure(self):
        try:
            return without_folders(self.measure_all())
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def measure_all(self):
        options = self.options
        model = pathlib.Path(options.model)
        raw = {"machine": machine_info.describe(), "threads": options.threads, "is_quick": options.quick,
               "model": {"file": model.name, "bytes": model.stat().st_size},
               "tern_version": run_program([options.tern, "--version"]).strip(),
               "swap_flags": options.swap_flags, "device_memory": options.device_memory,
               "compared_steps": options.compared_steps}
        say("== one program beside the other")
        raw["rounds"] = [self.measure_round() for _ in range(options.rounds)]
        say("== tern bench engine")
        raw["engine"] = run_json(self.engine_argv(options.lengths, options.streams))
        raw["peer"] = self.measure_servers("roomy", ["--device-memory", options.device_memory],
                                           ["turn", "restart", "streams", "commit"])
        raw["unspilled"] = self.measure_servers(
            "unspilled", ["--device-memory", options.device_memory, "--spill", "evict"], ["commit"])
        raw["swap"] = self.measure_servers("small", shlex.split(options.swap_flags), ["swap"])
        raw["own"] = self.measure_own()
        return raw

    # --- programs --------------------------------------------------------------------------

    def engine_argv(self, lengths, streams, *more):
        return [self.options.tern, "bench", "engine", *self.model, "--threads", self.options.threads,
                "--lengths", lengths, "--streams", streams, "--json", *more]

    def measure_round(self):
        """tern's engine and llama.cpp's, right after each other."""
        options = self.options
        found = {"tern": run_json(self.engine_argv(options.compared_prompt, "1,8", "--history", BATCH_PROMPT,
                                                   "--steps", options.compared_steps))}
        if options.llama_bench:
            found["llama_bench"] = run_json([options.llama_bench, "-m", options.model, "-t", options.threads, "-r", 1,
                                             "-p", options.compared_prompt, "-n", options.compared_steps,
                                             "-o", "json"])
        if options.llama_batched_bench:
            found["llama_batched_bench"] = run_json_lines(
                [options.llama_batched_bench, "-m", options.model, "-t", options.threads, "-c", 8192,
                 "-npp", BATCH_PROMPT, "-ntg", options.compared_steps, "-npl", 8, "--output-format", "jsonl"])
        return found

    def measure_own(self):
        """What else this `tern bench` has, as it prints it."""
        options = self.options
        listed = run_program([options.tern, "bench", "--help"]).split()
        flags = {"resume": ["--history", options.resume_history, "--rounds", options.rounds],
                 "swap": [*shlex.split(options.swap_flags), "--history-words", options.peer_options.swap_new,
                          "--conversations", options.peer_options.conversations,
                          "--turns", options.peer_options.turns]}
        found = {name: run_json([options.tern, "bench", name, *self.model, "--threads", options.threads, "--json",
                                 *flags[name]]) for name in flags if name in listed}
        if "lookup" in listed and "fill" in listed:
            found["lookup"] = [self.measure_lookup(count) for count in options.stored]
        return found

    def measure_lookup(self, count):
        """
        On the demo model: stores of many conversations are a matter of the store, not of the model. Nothing of
        either lies in the page cache, which holds a small store and not a large one.
        """
        store = self.folder / f"filled-{count}"
        flags = ["--store", store, "--threads", self.options.threads, "--json"]
        run_program([self.options.tern, "bench", "fill", "--conversations", count, *flags])
        found = run_json([self.options.tern, "bench", "lookup", "--samples", self.options.samples, "--drop-cache",
                          *flags])
        shutil.rmtree(store)
        return found

    # --- servers ---------------------------------------------------------------------------

    def peer_server(self, name):
        slots = self.folder / f"slots-{name}"
        slots.mkdir()
        port = free_port()
        argv = [self.options.llama_server, "-m", self.options.model, "-c", 65536, "-np", 4, "--cache-ram", 512,
                "--slot-save-path", slots, "-t", self.options.threads, "--port", port]
        return ServerProcess(argv, port, self.folder / f"peer-{name}.log")

    def tern_server(self, name, flags):
        port = free_port()
        argv = [self.options.tern, "serve", *self.model, "--store", self.folder / f"store-{name}",
                "--threads", self.options.threads, "--port", port, *flags]
        return ServerProcess(argv, port, self.folder / f"tern-{name}.log")

    def measure_servers(self, name, flags, cases):
        say(f"== tests/peer/run: {', '.join(cases)}")
        with self.peer_server(name) as peer, self.tern_server(name, flags) as tern:
            bench = peer_cases.Bench(endpoints.Peer(peer.url, peer.restart), endpoints.Tern(tern.url, tern.restart),
                                     self.options.peer_options, say)
            return {"seed": self.options.peer_options.seed, "cases": bench.run(cases)}
