"""docs/performance.md from the raw figures: a table for each subject, and the command that prints it."""
import pathlib
import sys

import plots

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peer"))

import figures  # noqa: E402: after the path is set

OPS_SHOWN = 8


def table(head, lines):
    """Markdown; the first column stands left, the others right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def compared(rows):
    has_notes = any(row["note"] for row in rows)
    lines = [[row["name"], figures.show(row["peer"], row["unit"]), figures.show(row["tern"], row["unit"]),
              figures.show_ratio(row["ratio"]), *([row["note"]] if has_notes else [])] for row in rows]
    return table(["what", "llama.cpp", "tern", "ratio", *(["remark"] if has_notes else [])], lines)


def alone(rows):
    return table(["what", "tern", "remark"],
                 [[row["name"], figures.show(row["tern"], row["unit"]), row["note"]] for row in rows])


def command(*lines):
    return "```\n" + "\n".join(lines) + "\n```"


def mean(values):
    values = list(values)
    return sum(values) / len(values)


# --- what stands in the raw figures ------------------------------------------------------------

def engine_case(engine, kind, size):
    """Its figures, or None."""
    return next((one for one in engine["cases"] if one["case"] == kind and one["size"] == size), None)


def engine_sizes(engine, kind):
    return [one["size"] for one in engine["cases"] if one["case"] == kind]


def round_rate(one, kind, size):
    case = engine_case(one["tern"], kind, size)
    return case["tokens_per_second"] if case else None


def bench_rate(one, is_prompt):
    """llama-bench's tokens a second of a prompt, or of decoding alone."""
    wanted = [entry for entry in one.get("llama_bench", ()) if (entry["n_prompt"] > 0) == is_prompt]
    return wanted[0]["avg_ts"] if wanted else None


def batched_rate(one):
    lines = one.get("llama_batched_bench")
    return lines[0]["speed_tg"] if lines else None


def median_of(values):
    known = [value for value in values if value is not None]
    return figures.median(known) if known else None


def engine_rows(raw):
    """The two programs beside each other: the median of the rounds of each."""
    rounds = raw["rounds"]
    prompt = engine_sizes(rounds[0]["tern"], "prefill")[0]
    kinds = ((f"prefill of {prompt} tokens", "prefill", prompt, lambda one: bench_rate(one, True)),
             ("decode alone", "decode", 1, lambda one: bench_rate(one, False)),
             ("decode, 8 streams", "decode", 8, batched_rate))
    return [figures.row(name, "tokens/s", median_of(map(peer, rounds)),
                        median_of(round_rate(one, kind, size) for one in rounds), f"median of {len(rounds)}")
            for name, kind, size, peer in kinds]


def server_rows(raw, part, case):
    return raw[part]["cases"][case]["rows"]


# --- sections ----------------------------------------------------------------------------------

def head(raw, names):
    quick = ["", "**These figures are of a quick run: it shows that everything works, not how fast it is.**"] \
        if raw["is_quick"] else []
    return "\n".join([
        "# Performance", "",
        "This page and its plots are made by one command, which measures everything on it:", "",
        command("tests/bench/report --tern build/release/tern --model FILE --llama-server PATH \\",
                "    --llama-bench PATH --llama-batched-bench PATH --threads N --out docs/performance.md"), "",
        f"Every single sample stands in `{names['raw']}`. The ratio says how many times better tern is. Programs",
        "that are compared take turns, so that the noise of a shared machine meets both.", *quick])


def machine(raw):
    info, engine, model = raw["machine"], raw["engine"], raw["model"]
    dot = mean(one["peak_dot_ops_per_second"] for one in engine["cases"])
    floats = mean(one["peak_float_ops_per_second"] for one in engine["cases"])
    read = mean(one["peak_read_bytes_per_second"] for one in engine["cases"])
    peer = next((entry for one in raw["rounds"] for entry in one.get("llama_bench", ())), None)
    lines = [["processor", f"{info['cpu']} ({info['architecture']}), {info['processors']} processors"],
             ["threads", f"{raw['threads']} for each program"],
             ["memory", f"{info['memory_bytes'] / 2**30:.0f} GiB"], ["kernel", info["kernel"]],
             ["instruction set of tern's kernels", engine["isa"]],
             ["integer dot products, measured", f"{dot * 1e-9:.0f} Gop/s"],
             ["float arithmetic, measured", f"{floats * 1e-9:.0f} Gop/s"],
             ["memory read, measured", f"{read * 1e-9:.1f} GB/s"],
             ["model", f"{model['file']}, {model['bytes'] / 1e6:.0f} MB"], ["tern", raw["tern_version"]]]
    if peer:
        lines.append(["llama.cpp", f"build {peer['build_number']}, commit {peer['build_commit']}"])
    return "## The machine\n\n" + table(["", ""], lines)


def engine_section(raw, names):
    rows = engine_rows(raw)
    prompt = engine_sizes(raw["rounds"][0]["tern"], "prefill")[0]
    parts = ["## Prefill and decode", compared(rows),
             "The peer's figures are those of `llama-bench`, and of `llama-batched-bench` for the streams.",
             command(f"tern bench engine --model FILE --threads {raw['threads']} --lengths {prompt} --streams 1,8 "
                     "--history 128",
                     f"llama-bench -m FILE -t {raw['threads']} -p {prompt} -n {raw['compared_steps']}",
                     f"llama-batched-bench -m FILE -t {raw['threads']} -c 8192 -npp 128 "
                     f"-ntg {raw['compared_steps']} -npl 8"),
             f"![tokens per second by streams]({names['streams']})",
             "The bound of a decode step is what it reads and writes (weights, keys and values, state) at the rate",
             "at which memory can be read. That rate is measured beside every case."]
    return "\n\n".join(parts[:5]) + "\n\n" + "\n".join(parts[5:]) + "\n\n" + engine_shares(raw)


def case_name(one):
    if one["case"] == "prefill":
        return f"prefill of {one['size']} tokens"
    return f"decode, {one['size']} streams" if one["size"] > 1 else "decode alone"


def engine_shares(raw):
    lines = [[case_name(one), f"{one['tokens_per_second']:.1f}", f"{100 * one['dot_share']:.0f} %",
              f"{100 * one['bandwidth_share']:.0f} %",
              f"{1e3 * one['longest_step_seconds']:.1f} ms" if one["case"] == "decode" else "-"]
             for one in raw["engine"]["cases"]]
    text = table(["tern", "tokens/s", "of the integer rate", "of the memory rate", "longest step"], lines)
    wanted = [engine_case(raw["engine"], "prefill", max(engine_sizes(raw["engine"], "prefill"), default=0)),
              engine_case(raw["engine"], "decode", 1), engine_case(raw["engine"], "decode", 8)]
    for one in filter(None, wanted):
        text += "\n\n" + op_table(one)
    return text + "\n\n" + command(f"tern bench engine --model FILE --threads {raw['threads']}")


def op_table(one):
    ops = sorted(one["ops"], key=lambda op: -op["seconds"])[:OPS_SHOWN]
    lines = [[f"`{op['op']}`", f"{100 * op['seconds'] / one['seconds']:.1f} %",
              f"{100 * op['floor_seconds'] / op['seconds']:.0f} %" if op["seconds"] > 0 else "-"] for op in ops]
    return (f"Where the time goes: {case_name(one)}. The floor of an op is its work at the machine's peaks.\n\n"
            + table(["op", "of the time", "floor of its time"], lines))


def turn_section(raw, names):
    parts = ["## First token of a next turn",
             f"![time to first token]({names['first_token']})",
             "The servers are started by",
             command(f"llama-server -m FILE -c 65536 -np 4 --cache-ram 512 --slot-save-path DIR -t {raw['threads']}",
                     f"tern serve --model FILE --store DIR --threads {raw['threads']} --device-memory "
                     f"{raw['device_memory']}"),
             "From sending the request to the first text at the client, which runs on the same machine. The peer is\n"
             "sent the whole history and finds what it has in its cache. tern is sent what is new.",
             compared(server_rows(raw, "peer", "turn")), command("tests/peer/run --cases turn"),
             "After a restart the peer has nothing, unless the client has saved a slot and restores it; the time of\n"
             "that request is part of its figure. tern finds the conversation on disk.",
             compared(server_rows(raw, "peer", "restart")),
             command("tests/peer/run --cases restart --peer-restart CMD --tern-restart CMD")]
    return "\n\n".join(parts)


def swap_section(raw):
    return "\n\n".join([
        "## Many conversations over little memory",
        f"tern has `{raw['swap_flags']}` here, the peer as before `--cache-ram 512`.\n"
        "All conversations have their turn before the next one begins. The time to first token includes waiting\n"
        "behind other requests.",
        compared(server_rows(raw, "swap", "swap")), command("tests/peer/run --cases swap")])


def streams_section(raw):
    return "\n\n".join([
        "## Decode over HTTP",
        "Tokens a second of all requests together, over the time in which as many as ever were between their first\n"
        "and last text.",
        compared(server_rows(raw, "peer", "streams")), command("tests/peer/run --cases streams")])


def commit_section(raw):
    return "\n\n".join([
        "## The end of a turn",
        "From the last text to the final chunk, which is sent when the turn is committed.",
        alone(server_rows(raw, "peer", "commit")), command("tests/peer/run --cases commit"),
        "The same with `tern serve --spill evict`, which writes no state while it serves:",
        alone(server_rows(raw, "unspilled", "commit"))])


def plain(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "yes" if value is True else "no" if value is False else str(value)


def own_section(name, found):
    """What `tern bench NAME` printed: its lists of records as tables, the rest as one."""
    parts = [f"## tern bench {name}"]
    for record in found if isinstance(found, list) else [found]:
        single = [[key, plain(value)] for key, value in record.items() if not isinstance(value, (dict, list))]
        if single:
            parts.append(table(["figure", "value"], single))
        for value in record.values():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                keys = [key for key in value[0] if not isinstance(value[0][key], (dict, list))]
                parts.append(table(keys, [[plain(entry.get(key)) for key in keys] for entry in value]))
    flags = {"lookup": " --store DIR", "swap": " --model FILE --device-memory SIZE --host-memory SIZE"}
    return "\n\n".join([*parts, command(f"tern bench {name}{flags.get(name, ' --model FILE')}")])


# --- plots -------------------------------------------------------------------------------------

def first_token_groups(raw):
    """(what, [(how, whose, seconds)]): the peer's ways to it, and tern's."""
    last = [row for row in server_rows(raw, "swap", "swap") if row["name"].endswith("median")][-1:]
    found = {}
    for row in [*server_rows(raw, "peer", "turn"), *server_rows(raw, "peer", "restart"), *last]:
        what, _, how = row["name"].partition(": ")
        found.setdefault(what, []).append((how.replace("peer's", "").replace("peer", "").strip(), row))
    return [(what, [(f"llama.cpp, {how}" if how else "llama.cpp", "llama.cpp", row["peer"]) for how, row in ways]
             + [("tern", "tern", ways[0][1]["tern"])]) for what, ways in found.items()]


def stream_groups(raw):
    """tern's rate, the bound, and the peer's where it was measured."""
    theirs = {1: median_of(bench_rate(one, False) for one in raw["rounds"]),
              8: median_of(batched_rate(one) for one in raw["rounds"])}
    groups = []
    for one in raw["engine"]["cases"]:
        if one["case"] != "decode":
            continue
        values = {"tern": one["tokens_per_second"], "bound": one["tokens_per_second"] / one["bandwidth_share"]}
        if theirs.get(one["size"]):
            values["llama.cpp"] = theirs[one["size"]]
        groups.append((f"{one['size']} streams" if one["size"] > 1 else "alone", values))
    return groups


def files_of(raw, stem):
    """{name: text} of the page and its plots; the raw figures stand beside them as STEM.json."""
    names = {"raw": f"{stem}.json", "first_token": f"{stem}-first-token.svg", "streams": f"{stem}-streams.svg"}
    sections = [head(raw, names), machine(raw), engine_section(raw, names), turn_section(raw, names),
                swap_section(raw), streams_section(raw), commit_section(raw)]
    sections += [own_section(name, found) for name, found in raw["own"].items()]
    return {f"{stem}.md": "\n\n".join(sections) + "\n",
            names["first_token"]: plots.log_bars("Time to the first token of a next turn", first_token_groups(raw)),
            names["streams"]: plots.grouped_bars("Decode, and what memory allows", "tokens/s in all",
                                                 stream_groups(raw))}
