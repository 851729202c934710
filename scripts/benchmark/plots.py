"""Bars from saved reports: tokens a second of the pipeline, HTTP and mlx-lm, a panel for prefill, one for decode.

Speeds of different models lie far apart, so every model has a row of panels of its own. matplotlib is imported only
here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.samples import Trouble

SIDES = {"pipeline": "#2a6f97", "http client": "#61a5c2", "mlx-lm": "#b0b0b0"}
NAMES = {"pipeline": "pipeline", "http client": "over HTTP", "mlx-lm": "mlx-lm"}
PHASES = ("prefill", "decode")
ROW_INCHES = 1.3


def read(path: Path) -> dict[str, Any]:
    """A report: the last line of what scripts/bench.py printed."""
    try:
        report = json.loads(path.read_text().strip().splitlines()[-1])
        found = {side: report["tokens_per_s"][side] for side in SIDES if side in report["tokens_per_s"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Trouble(f"{path} is no output of scripts/bench.py: {error}") from None
    if not found:
        raise Trouble(f"{path} has none of {', '.join(SIDES)}: it is no run beside mlx-lm")
    return {**report, "tokens_per_s": found}


def draw(reports: Sequence[Path], target: Path) -> None:
    """Write one picture of all reports; its suffix decides the format. Raises Trouble."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise Trouble("drawing needs matplotlib: .venv/bin/pip install -e '.[dev]'") from None
    runs = [read(path) for path in reports]
    figure = Figure(figsize=(8, 0.7 + ROW_INCHES * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), len(PHASES), squeeze=False)
    for row, run in zip(panels, runs, strict=True):
        for panel, phase in zip(row, PHASES, strict=True):
            bars(panel, run, phase)
    where = runs[0]["machine"]
    figure.suptitle(f"tokens a second on {where['device']} ({where['cpu']}), {runs[0]['date']}", fontsize=9)
    # Text stays text; without a date of its own, and with names that are not random, a picture is reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlx-runner"}):
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


def bars(panel: Any, run: dict[str, Any], phase: str) -> None:
    speeds = {NAMES[side]: found[phase] for side, found in run["tokens_per_s"].items()}
    drawn = panel.barh(
        list(speeds), list(speeds.values()), color=[SIDES[side] for side in run["tokens_per_s"]]
    )
    panel.bar_label(drawn, fmt="%.0f", padding=2, fontsize=7)
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.tick_params(labelsize=7)
    panel.set_title(f"{run['model']}, {phase}", fontsize=8, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
