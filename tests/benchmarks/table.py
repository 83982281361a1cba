"""What a person reads: a line per row, number of threads and contestant."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = ("row", "threads", "against", "speed (wall)", "speed (CPU)", "memory", "bars")
_MEGABYTE = 2**20


def lines_of(title: str, result: Mapping[str, Any]) -> list[str]:
    """A finished contest, while the others still run."""
    lines = [f"{title}, {result['threads']} thread(s), {result['gflop_per_s']:.1f} GFLOP/s in matrix products"]
    for entry in result["contestants"]:
        memory = f"{entry['peak_memory'] / _MEGABYTE:.0f} MB ({entry['risen_memory'] / _MEGABYTE:+.0f} after loading)"
        rate = f"{entry['per_s']:.4g} per second, {entry['per_cpu_s']:.4g} per CPU second"
        lines.append(f"    {entry['label']:24} {rate}, {memory}")
    lines += [f"    UNEQUAL WORK: {problem}" for problem in result["unequal"]]
    return lines


def table(results: list[dict[str, Any]]) -> str:
    """All contests: ratios of the first contestant to each other, and what was to be reached."""
    rows = [list(_COLUMNS)]
    for result in results:
        if "contestants" not in result:
            rows.append([result["row"], str(result["threads"]), "", "", "", "", _bars(result["bars"])])
            continue
        for entry in result["contestants"][1:]:
            bars = [bar for bar in result["bars"] if bar["against"] == entry["label"]]
            rows.append(
                [
                    result["row"],
                    str(result["threads"]),
                    entry["label"],
                    _spread(entry["wall_ratio"]),
                    _spread(entry["cpu_ratio"]),
                    f"{entry['memory_ratio']:.2f} ({_peak(result, 0)} / {entry['peak_memory'] / _MEGABYTE:.0f} MB)",
                    _bars(bars) + (" UNEQUAL WORK" if result["unequal"] else ""),
                ]
            )
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    cut = ["-" * width for width in widths]
    written = [rows[0], cut, *rows[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in written
    )


def _peak(result: Mapping[str, Any], place: int) -> str:
    return f"{result['contestants'][place]['peak_memory'] / _MEGABYTE:.0f}"


def _spread(ratio: Any) -> str:
    median, lowest, highest = ratio
    return f"{median:.3g} ({lowest:.3g}-{highest:.3g})"


def _bars(bars: list[dict[str, Any]]) -> str:
    return ", ".join(f"{bar['bar']}: {'reached' if bar['reached'] else 'MISSED'} ({bar['value']:.3g})" for bar in bars)
