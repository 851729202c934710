"""Reports become pictures as plain data: which figures stand in which panel, under which name.

A picture has a row for each report and a panel for each quantity, since models lie far apart in speed. Every number
in it is one of a report.

Knows nothing about how pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.samples import Trouble

Report = Mapping[str, Any]
Points = dict[int, float]

SPEEDS = {"prefill": "prefill, tok/s", "decode": "decode, tok/s"}
BAR_NAMES = {"pipeline": "runner", "http client": "runner, HTTP", "mlx-lm": "mlx-lm"}
UNITS = ((1e9, "GB"), (1e6, "MB"))
MS_PER_S = 1000
UNDRAWN = ("against", "structured", "arrival", "cache")
"""Modes whose reports belong to no picture."""


@dataclass(frozen=True)
class Bars:
    """A bar for each name."""

    title: str
    values: dict[str, float]


@dataclass(frozen=True)
class Lines:
    """A line for each name over `axis`, and where a name has a level, a dotted one across."""

    title: str
    axis: str
    series: dict[str, Points]
    levels: dict[str, float]


@dataclass(frozen=True)
class Row:
    """title: the model and where it ran. subtitle: what was run, and when."""

    title: str
    subtitle: str
    panels: tuple[Bars | Lines, ...]


def pictures(reports: Mapping[Path, Report]) -> dict[str, list[Row]]:
    """The rows of each picture, by its name: what it shows, and the kind of device. Raises Trouble."""
    found: dict[str, list[Row]] = {}
    for path, report in reports.items():
        if report["mode"] in UNDRAWN:
            continue
        if report["mode"] not in PICTURES:
            raise Trouble(f"{path} is of the mode {report['mode']!r}, which scripts/bench.py does not have")
        picture, panels = PICTURES[report["mode"]]
        try:
            row = Row(_title(report), _subtitle(report), panels(report))
            device = report["machine"]["device"]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"the mode {report['mode']!r} has ({type(error).__name__}: {error})"
            raise Trouble(f"{path} lacks what a report of {what}") from None
        found.setdefault(f"{picture}-{device}", []).append(row)
    if not found:
        raise Trouble("none of the reports belongs to a plot")
    return {name: sorted(rows, key=lambda row: row.title) for name, rows in sorted(found.items())}


def _title(report: Report) -> str:
    where = report["machine"]
    return f"{report['model']} on {where['gpu'] or '{cpu}, {cores} cores'.format(**where)}"


def _subtitle(report: Report) -> str:
    rounds = f"{report['rounds']} requests a client" if "clients" in report else f"{report['rounds']} rounds"
    sizes = f"{report['generated_tokens']} tokens out"
    if report["mode"] == "beside":
        sizes = f"{report['prompt_tokens']} tokens in, {sizes}"
    return (
        f"{sizes}, {rounds}; MLX {report['machine']['mlx']}, {report['date']},"
        f" load of the machine before: {report['load_before']}"
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _speed(report: Report) -> tuple[Bars, ...]:
    sides = {
        name: report["tokens_per_s"][side]
        for side, name in BAR_NAMES.items()
        if side in report["tokens_per_s"]
    }
    return tuple(
        Bars(title, {name: _number(speed[what]) for name, speed in sides.items()})
        for what, title in SPEEDS.items()
    )


def _growth(report: Report) -> tuple[Lines, ...]:
    def panel(what: str, title: str, levels: Mapping[str, float], unit: float = 1) -> Lines:
        series = {
            side: {length: _number(found[str(length)][what]) / unit for length in report["lengths"]}
            for side, found in report["growth"].items()
        }
        return Lines(
            title, "tokens of the prompt", series, {name: level / unit for name, level in levels.items()}
        )

    loaded = {side: _number(size) for side, size in report["loaded_bytes"].items()}
    unit, name = next((pair for pair in UNITS if max(loaded.values()) >= pair[0]), UNITS[-1])
    speeds = [panel(what, title, {}) for what, title in SPEEDS.items()]
    return (*speeds, panel("peak_bytes", f"peak memory, {name} (dotted: the model)", loaded, unit))


def _clients(report: Report) -> tuple[Lines, ...]:
    def panel(title: str, value: Callable[[Mapping[str, Any]], Any], scale: float = 1) -> Lines:
        series = {
            side: {
                number: _number(value(found[str(number)])) * scale
                for number in report["clients"]
                if value(found[str(number)]) is not None  # nobody got two tokens, or any
            }
            for side, found in report["load"].items()
        }
        return Lines(title, "clients", series, {})

    return (
        panel("all clients, tok/s", lambda found: found["tokens_per_s_whole"]),
        panel("first token, p50, s", lambda found: found["first_token_s"]["p50"]),
        panel("gap between tokens, p50, ms", lambda found: found["gap_s"]["p50"], MS_PER_S),
    )


PICTURES: dict[str, tuple[str, Callable[[Report], tuple[Bars | Lines, ...]]]] = {
    "beside": ("speed", _speed),
    "growth": ("growth", _growth),
    "clients": ("clients", _clients),
}
"""Mode of a report -> what its picture is called, and the panels of its row."""
