"""Reports as files: what bench.py measured on any machine, to be drawn on any other.

Knows nothing about how they come about, nor about plots.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.samples import Trouble

Report = dict[str, Any]
SUFFIX = ".json"


def unfit(path: Path) -> str:
    """Why no report can be written there; nothing if it can, as far as is to be seen before a measurement."""
    if path.suffix != SUFFIX:
        return f"the name must end in {SUFFIX}, by which --draw finds it"
    return "" if path.parent.is_dir() else f"there is no folder {path.parent}"


def save(report: Report, path: Path) -> None:
    """Raises Trouble."""
    try:
        path.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise Trouble(f"the report, which stands above, cannot be written: {error}") from None


def read_folder(folder: Path) -> dict[Path, Report]:
    """All reports of a folder, by their names. Raises Trouble."""
    found = {path: _read(path) for path in sorted(folder.glob(f"*{SUFFIX}"))}
    if not found:
        raise Trouble(f"{folder} has no report: `scripts/bench.py --save {folder}/NAME{SUFFIX}` writes some")
    return found


def _read(path: Path) -> Report:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Trouble(f"{path} is no report of scripts/bench.py: {error}") from None
    if not isinstance(report, dict) or "mode" not in report:
        raise Trouble(f"{path} is no report of scripts/bench.py: it names no mode")
    return report
