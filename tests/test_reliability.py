"""docs/reliability.md names tests that there are, for every row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
NAMED = re.compile(r"`([a-z_/0-9]+\.py)::(test_\w+)`")
ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)


def functions_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_table_names_is_there() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 50
    assert not [f"{file}::{test}" for file, test in named if test not in functions_in(ROOT / "tests" / file)]


def test_every_row_names_a_test_or_says_that_there_is_none() -> None:
    rows = dict(ROW.findall(PAGE.read_text()))
    assert sorted(map(int, rows)) == list(range(1, 51))
    assert not [
        row for row, text in rows.items() if not re.search(r"::test_|the same|the ways|not here", text)
    ]


def test_a_name_that_is_wrong_is_seen() -> None:
    assert "test_a_name_that_is_nobody_s" not in functions_in(Path(__file__))
    assert NAMED.findall("`process/test_x.py::test_y`") == [("process/test_x.py", "test_y")]
