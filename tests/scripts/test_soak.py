"""scripts/soak.py in its short form, and that it sees what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import soak
from reliability.watching import Sample, growth, pings

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 300.0
WELL: dict[str, Any] = {
    "outcomes": {"finished": 5},
    "same_answer": True,
    "first": {"files": 8, "threads": 9, "held_bytes": 1000},
    "last": {"files": 8, "threads": 9, "held_bytes": 1000},
    "growth": {"resident_bytes_per_request": 10.0},
    "exit_code": 0,
}


@pytest.mark.slow
def test_seconds_of_clients_who_leave_and_steps_that_fail_lose_nothing(tmp_path: Path) -> None:
    """A short run cannot tell growth from warming up; it can tell an end that is lost."""
    command: list[str | Path] = [
        sys.executable,
        ROOT / "scripts/soak.py",
        "--seed",
        "short",
        "--minutes",
        "0.05",
    ]
    command += ["--clients", "8", "--save", tmp_path / "report.json", "--draw", tmp_path / "memory.svg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(report["wrong"]) <= {"the process grows", "threads stayed"}, done.stderr
    assert report["outcomes"]["finished"] > 0
    assert report["requests"] == sum(report["outcomes"].values())
    assert report["health"]["pings"] > 0
    assert len(json.loads((tmp_path / "report.json").read_text())["samples"]) >= 3
    assert "held by MLX" in (tmp_path / "memory.svg").read_text()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"outcomes": {"finished": 5, "lost": 1}}, "final records were lost"),
        ({"outcomes": {"hung": 1}}, "clients hung"),
        ({"same_answer": False}, "the answer is another one"),
        ({"last": {"files": 9, "threads": 9, "held_bytes": 1000}}, "files stayed open"),
        ({"last": {"files": 8, "threads": 10, "held_bytes": 1000}}, "threads stayed"),
        ({"last": {"files": 8, "threads": 9, "held_bytes": 3_000_000}}, "MLX holds more"),
        ({"growth": {"resident_bytes_per_request": 150_000.0}}, "the process grows"),
        ({"exit_code": -6}, "it did not end as it should"),
    ],
)
def test_what_must_not_be_is_told(change: dict[str, Any], why: str) -> None:
    assert soak.wrong(WELL) == []
    assert soak.wrong(WELL | change) == [why]


def test_growth_is_the_slope_behind_the_first_samples() -> None:
    samples = [Sample(float(n), 100 * n, 10**6 + 700 * n, 500, 8, 9) for n in range(10)]
    samples[0] = Sample(0.0, 0, 1, 1, 8, 9)  # warming up
    assert growth(samples) == {"resident_bytes_per_request": 7.0, "held_bytes_per_request": 0.0}
    assert growth(samples[:1]) == {}


def test_pings_are_told_by_their_percentiles(tmp_path: Path) -> None:
    (tmp_path / "pings").write_text("".join(f"{n}.0\n" for n in range(1, 101)) + "12")  # the last one is cut
    assert pings(tmp_path / "pings") == {"pings": 100, "p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 100.0}
