"""Medians, percentiles, ratios, and the table of them."""
import math


def percentile(values, share):
    """The smallest value that at least SHARE of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def row(name, unit, peer, tern, note=""):
    """
    A line of a table. The ratio says how many times better tern is: of times ("s") the peer's by tern's, of
    rates ("tokens/s") tern's by the peer's. PEER may be None.
    """
    ratio = None
    if peer is not None and tern is not None:
        ratio = peer / tern if unit == "s" else tern / peer
    return {"name": name, "unit": unit, "peer": peer, "tern": tern, "ratio": ratio, "note": note}


def show(value, unit):
    """Three digits or so, with the unit."""
    if value is None:
        return "-"
    if unit == "s" and value < 1:
        return f"{value * 1e3:.3g} ms"
    if unit == "share":
        return f"{value * 100:.2g} %"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def show_ratio(ratio):
    if ratio is None:
        return "-"
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def table(rows):
    """Lines of text."""
    cells = [("", "llama.cpp", "tern", "ratio", "")]
    cells += [(one["name"], show(one["peer"], one["unit"]), show(one["tern"], one["unit"]), show_ratio(one["ratio"]),
               one["note"]) for one in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return [f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:>{widths[2]}}  {line[3]:>{widths[3]}}"
            f"  {line[4]}".rstrip() for line in cells]
