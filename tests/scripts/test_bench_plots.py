"""The plots of scripts/bench.py: what they show of reports that are written by hand, and what is no report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark import plots  # noqa: E402
from benchmark.pictures import Bars, Lines, pictures  # noqa: E402
from benchmark.reports import read_folder  # noqa: E402

Report = dict[str, Any]
RUN_S = 120.0


def draw(folder: Path, into: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/bench.py"), "--draw", str(folder), "--into", str(into)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_S, env=os.environ | environment
    )


def head(mode: str, gpu: str | None = None) -> Report:
    return {
        "mode": mode,
        "model": "tiny",
        "date": "2026-11-22",
        "load_before": 0.5,
        "prompt_tokens": 16,
        "generated_tokens": 4,
        "rounds": 3,
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "gpu": gpu,
            "device": "cuda" if gpu else "cpu",
            "mlx": "0.32.4",
        },
    }


def beside(speeds: dict[str, float], gpu: str | None = None) -> Report:
    sides = {side: {"prefill": 10 * speed, "decode": speed} for side, speed in speeds.items()}
    return head("beside", gpu) | {"tokens_per_s": sides}


def growth() -> Report:
    def side(speed: float) -> Report:
        return {
            str(length): {"prefill": 10 * speed, "decode": speed, "peak_bytes": 1000 * length}
            for length in (512, 4096)
        }

    return head("growth") | {
        "lengths": [512, 4096],
        "loaded_bytes": {"runner": 3e6, "mlx-lm": 2e6},
        "growth": {"runner": side(20.0), "mlx-lm": side(10.0)},
    }


def clients() -> Report:
    def level(number: int, gap: float | None) -> Report:
        return {
            "tokens_per_s_whole": 7.0 * number,
            "first_token_s": {"p50": 0.25},
            "gap_s": {"p50": gap},
        }

    sides = {
        "runner": {"1": level(1, 0.002), "8": level(8, 0.003)},
        "mlx_lm.server": {"1": level(1, None), "8": level(2, 0.01)},
    }
    return head("clients") | {"clients": [1, 8], "load": sides}


def write(folder: Path, **reports: Report) -> Path:
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(json.dumps(report))
    return folder


def texts(picture: Path) -> set[str]:
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text()))


def test_every_kind_of_report_becomes_a_plot_that_names_its_series(tmp_path: Path) -> None:
    speeds = {"pipeline": 123.0, "http": 99.0, "http client": 45.0, "mlx-lm": 6.75}
    write(tmp_path, a=beside(speeds), b=growth(), c=clients(), d=beside({"pipeline": 9999.0}, "H999"))
    done = draw(tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["clients-cpu.svg", "growth-cpu.svg", "speed-cpu.svg", "speed-cuda.svg"]
    assert done.stdout.splitlines() == [str(tmp_path / name) for name in names]
    shown = {name: texts(tmp_path / name) for name in names}
    assert {"runner", "mlx_lm.server", "clients", "all clients, tok/s", "1", "8"} <= shown[names[0]]
    assert {"runner", "mlx-lm", "tokens of the prompt", "decode, tok/s", "512", "4 k"} <= shown[names[1]]
    assert {"runner", "runner, HTTP", "mlx-lm", "1,230", "123", "45.0", "6.8"} <= shown[names[2]]
    assert {"runner", "tiny on H999", "99,990", "9,999"} <= shown[names[3]]
    assert "tiny on a processor, 2 cores" in shown[names[2]]
    assert any("2026-11-22" in text and "load of the machine before: 0.5" in text for text in shown[names[2]])


def test_a_picture_holds_the_numbers_of_its_report(tmp_path: Path) -> None:
    found = pictures(
        read_folder(write(tmp_path, one=growth(), two=clients(), three=beside({"pipeline": 5.0})))
    )
    (grown,), (loaded,), (fast,) = found["growth-cpu"], found["clients-cpu"], found["speed-cpu"]
    assert fast.panels == (
        Bars("prefill, tok/s", {"runner": 50.0}),
        Bars("decode, tok/s", {"runner": 5.0}),
    )
    memory = {512: 0.512, 4096: 4.096}
    assert grown.panels[1:] == (
        Lines(
            "decode, tok/s",
            "tokens of the prompt",
            {"runner": {512: 20.0, 4096: 20.0}, "mlx-lm": {512: 10.0, 4096: 10.0}},
            {},
        ),
        Lines(
            "peak memory, MB (dotted: the model)",
            "tokens of the prompt",
            {"runner": memory, "mlx-lm": memory},
            {"runner": 3.0, "mlx-lm": 2.0},
        ),
    )
    assert loaded.panels[0] == Lines(
        "all clients, tok/s", "clients", {"runner": {1: 7.0, 8: 56.0}, "mlx_lm.server": {1: 7.0, 8: 14.0}}, {}
    )
    assert loaded.panels[2] == Lines(
        "gap between tokens, p50, ms", "clients", {"runner": {1: 2.0, 8: 3.0}, "mlx_lm.server": {8: 10.0}}, {}
    )


def test_the_same_reports_give_the_same_bytes_without_a_background(tmp_path: Path) -> None:
    """One picture is drawn here, the other one in a process of its own."""
    reports = write(tmp_path, one=growth())
    (tmp_path / "other").mkdir()
    (first,) = plots.draw(read_folder(reports), tmp_path)
    assert draw(reports, tmp_path / "other").returncode == 0
    drawn = first.read_text()
    assert drawn == (tmp_path / "other" / first.name).read_text()
    assert "#ffffff" not in drawn
    assert "#000000" not in drawn


def missing(folder: Path, *packages: str) -> str:
    """A PYTHONPATH with which these packages cannot be imported."""
    for package in packages:
        (folder / f"{package}.py").write_text(f'raise ImportError("no {package} here")\n')
    return str(folder)


def test_whoever_draws_needs_neither_mlx_nor_the_runner(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    path = missing(tmp_path / "path", "mlx", "mlx_lm", "runner", "api")
    done = draw(write(tmp_path, one=growth()), tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


def test_where_matplotlib_is_missing_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    done = draw(write(tmp_path, one=growth()), tmp_path, PYTHONPATH=missing(tmp_path / "path", "matplotlib"))
    assert done.returncode == 1
    assert done.stderr == "bench: drawing needs matplotlib: .venv/bin/pip install -e '.[dev]'\n"


def without(report: Report, *keys: str) -> str:
    return json.dumps({key: value for key, value in report.items() if key not in keys})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is no report of scripts/bench.py: Expecting value"),
        ("[]", "is no report of scripts/bench.py: it names no mode"),
        (without(growth(), "mode"), "is no report of scripts/bench.py: it names no mode"),
        (json.dumps(head("sideways")), "is of the mode 'sideways', which scripts/bench.py does not have"),
        (
            without(growth(), "loaded_bytes"),
            "lacks what a report of the mode 'growth' has (KeyError: 'loaded_bytes')",
        ),
        (
            without(clients(), "machine"),
            "lacks what a report of the mode 'clients' has (KeyError: 'machine')",
        ),
        (
            json.dumps(head("beside") | {"tokens_per_s": {"pipeline": {"prefill": "fast", "decode": 1}}}),
            "lacks what a report of the mode 'beside' has (TypeError: 'fast' is no number)",
        ),
    ],
)
def test_a_broken_report_is_named_in_one_line(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    done = draw(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"bench: {path} {why}")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_without_reports_is_told_how_to_get_some(tmp_path: Path) -> None:
    done = draw(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"bench: {tmp_path} has no report: `scripts/bench.py --save")


def test_reports_that_belong_to_no_plot_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, one=head("against"))
    assert "none of the reports belongs to a plot" in draw(tmp_path, tmp_path).stderr
    write(tmp_path, two=growth())
    assert list(pictures(read_folder(tmp_path))) == ["growth-cpu"]


def test_the_plots_of_the_docs_are_those_of_the_reports_that_are_kept(tmp_path: Path) -> None:
    assert draw(ROOT / "scripts" / "results", tmp_path).returncode == 0
    drawn = {path.name: texts(path) for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: texts(path) for path in plots.FOLDER.glob("*.svg")}
