"""Pictures become SVG files that read on light and on dark pages: no background, axes and text of a middle grey.

The same reports give the same bytes, since a file has no date and no random name in it. matplotlib is imported only
here, and only to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.pictures import Bars, Lines, Report, Row, pictures
from benchmark.samples import Trouble

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "plots"
GREY = "#808080"
COLOURS = {
    "runner": "#3a86c8",
    "runner, HTTP": "#7fb2de",
    "mlx-lm": "#d9822b",
    "mlx_lm.server": "#d9822b",
}
WIDTH = 8.0  # inches, as all lengths of matplotlib
BAR_ROW, LINE_ROW = 1.35, 2.3
SMALL, TINY = 8, 7
GREY_PARTS = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
STYLE: Any = {  # matplotlib's type for it names hundreds of keys, other ones in each version
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mlx-runner",
    "font.sans-serif": ["DejaVu Sans"],
    **dict.fromkeys(GREY_PARTS, GREY),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": TINY,
    "axes.titlesize": SMALL,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "grid.color": GREY,
    "grid.alpha": 0.25,
}
TICKS = 4
HEADROOM = 1.1
K = 1024


def draw(reports: Mapping[Path, Report], folder: Path) -> list[Path]:
    """Write a file for each picture; their paths. Raises Trouble."""
    found = pictures(reports)
    try:
        from matplotlib import rc_context
    except ImportError:
        raise Trouble("drawing needs matplotlib: .venv/bin/pip install -e '.[dev]'") from None
    targets = []
    with rc_context(STYLE):
        for name, rows in found.items():
            targets.append(folder / f"{name}.svg")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _figure(rows).savefig(targets[-1], metadata={"Date": None, "Creator": None})
            except OSError as error:
                raise Trouble(f"{targets[-1]} cannot be written: {error}") from None
    return targets


def _figure(rows: Sequence[Row]) -> Any:
    from matplotlib.figure import Figure

    heights = [LINE_ROW if isinstance(row.panels[0], Lines) else BAR_ROW for row in rows]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)
    for part, row in zip(parts[:, 0], rows, strict=True):
        part.suptitle(f"{row.title}\n{row.subtitle}", fontsize=SMALL, x=0.01, horizontalalignment="left")
        for panel, content in zip(part.subplots(1, len(row.panels)), row.panels, strict=True):
            panel.set_title(content.title)
            match content:
                case Bars():
                    _bars(panel, content)
                case Lines():
                    _lines(panel, content)
            if panel.lines:
                _legend(part, panel)
    return figure


def _legend(part: Any, panel: Any) -> None:
    """One for the row, whose panels have the same lines."""
    if not part.legends:
        part.legend(*panel.get_legend_handles_labels(), loc="outside upper right")


def _bars(panel: Any, content: Bars) -> None:
    names, values = list(content.values), list(content.values.values())
    drawn = panel.barh(names, values, color=[COLOURS[name] for name in names])
    panel.bar_label(
        drawn, [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values], padding=2
    )
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.locator_params(axis="x", nbins=TICKS)


def _lines(panel: Any, content: Lines) -> None:
    for name, points in content.series.items():
        panel.plot(
            list(points), list(points.values()), color=COLOURS[name], label=name, marker="o", markersize=3
        )
    for name, level in content.levels.items():
        panel.axhline(level, color=COLOURS[name], linestyle=":", linewidth=1)
    places = sorted({place for points in content.series.values() for place in points})
    panel.set_xscale("log", base=2)
    panel.set_xticks(places, [f"{place // K} k" if place % K == 0 else str(place) for place in places])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(content.axis)
    heights = [*content.levels.values(), *(y for points in content.series.values() for y in points.values())]
    panel.set_ylim(0, HEADROOM * (max(heights, default=0) or 1))
    panel.locator_params(axis="y", nbins=TICKS)
    panel.grid(axis="y")
