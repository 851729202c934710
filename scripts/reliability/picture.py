"""A soak's memory over its minutes or requests, as SVG. matplotlib is imported only here, and only to draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.plots import STYLE, WIDTH
from benchmark.samples import Trouble

HEIGHT = 2.6  # inches
BLUE, ORANGE = "#3a86c8", "#d9822b"
MB = 1e6
LABELS = {"minute": "minutes", "requests": "requests"}


def draw(report: Mapping[str, Any], target: Path, over: str = "minute") -> None:
    """over: what of a sample it is drawn over. Raises Trouble."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise Trouble("drawing needs matplotlib: .venv/bin/pip install -e '.[dev]'") from None
    samples = report["samples"]
    places = [sample[over] for sample in samples]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        memory, counts = figure.subplots(1, 2)
        memory.set_title("memory, MB")
        for what, name, colour in (
            ("resident_bytes", "of the process", BLUE),
            ("held_bytes", "held by MLX", ORANGE),
        ):
            memory.plot(places, [sample[what] / MB for sample in samples], color=colour, label=name)
        counts.set_title("open files and threads")
        for what, name, colour in (("files", "open files", BLUE), ("threads", "threads", ORANGE)):
            counts.plot(places, [sample[what] for sample in samples], color=colour, label=name)
        for panel in (memory, counts):
            panel.set_xlabel(LABELS[over])
            panel.set_ylim(0)
            panel.grid(axis="y")
            panel.legend(loc="lower right")
        try:
            figure.savefig(target, metadata={"Date": None, "Creator": None})
        except OSError as error:
            raise Trouble(f"{target} cannot be written: {error}") from None
