"""scripts/bench.py: what its last line says of runs too short to mean anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.checkpoints import checkpoint, floats
from tests.parts.quantized import Q4, in_mlx_spelling, section

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark.samples import interval  # noqa: E402

SHORT = ["--prompt", "8", "--generate", "4", "--rounds", "2"]
RUN_S = 300.0


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/bench.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)


def report(*arguments: str | Path) -> dict[str, Any]:
    """The last line."""
    done = run(*arguments, *SHORT)
    assert done.returncode == 0, done.stderr
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


@pytest.mark.slow
def test_packed_weights_are_measured_beside_mlx_lm(tmp_path: Path) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: Q4)
    folder = checkpoint(tmp_path / "packed", tensors, quantization=section(Q4))
    measured = report("--model", folder)
    assert list(measured["tokens_per_s"]) == ["pipeline", "http", "http client", "mlx-lm"]
    assert measured["greedy"]["pipeline_equals_http"]
    assert measured["greedy"]["pipeline_equals_mlx_lm"]


@pytest.mark.slow
def test_two_checkouts_are_measured_round_by_round(tiny_model: Path) -> None:
    measured = report("--model", tiny_model, "--against", ROOT)
    assert measured["same_text"]
    for what in ("prefill", "decode"):
        found = measured["this / other"][what]
        low, high = found["95%"]
        assert len(found["rounds"]) == 2
        assert low <= found["median"] <= high


LOAD = ["--prompt", "24", "--generate", "4", "--rounds", "3"]


def assert_loads_are_true(measured: dict[str, Any]) -> None:
    """Of the six requests of two clients the last is left after two tokens."""
    for levels in measured["load"].values():
        one, two = levels["1"], levels["2"]
        assert [one["tokens"], two["tokens"]] == [3 * 4, 5 * 4 + 2]
        assert [one["left"], two["left"]] == [0, 1]
        for found, asked in ((one, 3), (two, 6)):
            assert [found["failed"], found["compared"], found["differ"]] == [0, asked, 0], found
            assert 0 < found["first_token_s"]["p50"] <= found["first_token_s"]["p99"]
            assert 0 < found["gap_s"]["p50"] <= found["gap_s"]["p99"] <= found["gap_s"]["worst"]
            assert found["tokens_per_s"] > 0
            assert found["tokens_per_s_whole"] > 0


def test_clients_at_once_get_what_a_client_alone_gets() -> None:
    done = run("--clients", "1,2", "--without-mlx-lm", *LOAD)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert list(measured["load"]) == ["runner"]
    assert_loads_are_true(measured)


@pytest.mark.slow
def test_clients_ask_the_server_of_mlx_lm_the_same() -> None:
    done = run("--clients", "1,2", *LOAD)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert list(measured["load"]) == ["runner", "mlx_lm.server"]
    assert measured["alone"] == {"asked": 9, "same_on_both": 9}
    assert_loads_are_true(measured)


def test_what_a_long_prompt_costs_those_who_decode_is_told_beside_what_they_cost_it() -> None:
    done = run("--arrival", "300", "--rows", "2", "--prompt", "8", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert [measured["arrival_tokens"], measured["rows"], measured["prompt_tokens"]] == [300, 2, 8]
    for phase in ("without", "with"):
        gap = measured["gap_s"][phase]
        assert 0 < gap["p50"] <= gap["p99"] <= gap["worst"]
        assert measured["rows_tokens_per_s"][phase] > 0
        assert measured["first_token_s"][phase] > 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--arrival", "1"], "--cache and --arrival need at least 2"),
        (["--arrival", "9", "--rows", "0"], "--rows at least 1"),
        (["--arrival", "9", "--generate", "9"], "--generate means nothing with --arrival"),
        (["--arrival", "9", "--clients", "1"], "not allowed with argument"),
    ],
)
def test_an_arrival_that_makes_no_sense_is_refused(arguments: list[str], why: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert why in done.stderr


def test_a_prompt_that_no_context_takes_is_refused_in_one_line() -> None:
    done = run("--arrival", "9000", "--rows", "1")
    assert done.returncode == 1
    assert "maximum context length (8192 tokens)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_growth_tells_speed_and_memory_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "growth.json"
    done = run("--growth", "96,16", "--without-mlx-lm", "--generate", "4", "--rounds", "1", "--save", path)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured == json.loads(path.read_text())
    assert [measured["mode"], measured["lengths"]] == ["growth", [16, 96]]
    short, long = measured["growth"]["runner"].values()
    for found in (short, long):
        assert found["prefill"] > 0
        assert found["decode"] > 0
    # What a load leaves is more by what is not collected yet, which a busy machine was seen to have: 1.6 %.
    assert 0.9 * measured["loaded_bytes"]["runner"] < short["peak_bytes"] < long["peak_bytes"]


@pytest.mark.slow
def test_growth_is_measured_beside_mlx_lm(tiny_model: Path) -> None:
    done = run("--model", tiny_model, "--growth", "16,96", "--generate", "4", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert list(measured["growth"]) == ["runner", "mlx-lm"]
    assert measured["same_text"] == {"16": True, "96": True}
    for length, ratio in measured["ratios"].items():
        assert set(ratio) == {"prefill", "decode"}
        assert 0 < measured["loaded_bytes"]["mlx-lm"] < measured["growth"]["mlx-lm"][length]["peak_bytes"]


def test_a_growth_beyond_the_context_is_refused_before_anything_is_measured() -> None:
    done = run("--growth", "16,8190", "--generate", "4")
    assert done.returncode == 1
    assert done.stderr == (
        "bench: 8190 tokens and 4 more do not fit into the model's context of 8192; the longest may be 8188\n"
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--growth", "1,16"], "--cache and --arrival need at least 2"),
        (["--growth", "16", "--prompt", "16"], "--prompt means nothing with --growth"),
        (["--save", "one.txt"], "--save one.txt: the name must end in .json"),
        (["--save", "nowhere/one.json"], "--save nowhere/one.json: there is no folder nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(arguments: list[str], why: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize("numbers", ["0", "1,,2", "2,2"])
def test_numbers_of_clients_that_make_no_sense_are_refused(numbers: str) -> None:
    done = run(f"--clients={numbers}")
    assert done.returncode == 2
    assert f"{numbers!r} is no list of different numbers from 1 on" in done.stderr


def test_a_checkout_without_an_installed_runner_is_named(tmp_path: Path) -> None:
    done = run("--against", tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"bench: {tmp_path}/.venv/bin/mlx-runner is not there: run scripts/install in {tmp_path}\n"
    )


@pytest.mark.parametrize(
    ("count", "first", "last"), [(5, 1, 5), (6, 1, 6), (12, 3, 10), (24, 7, 18), (100, 40, 61)]
)
def test_the_median_lies_between_the_values_that_tables_name(count: int, first: int, last: int) -> None:
    """Ranks from 1, as in printed tables of distribution-free intervals; of fewer than six values, the range."""
    assert interval(range(1, count + 1)) == (first, last)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_the_order_of_values_makes_no_interval(values: list[float]) -> None:
    low, high = interval(values)
    assert min(values) <= low <= high <= max(values)
    assert interval(values[::-1]) == (low, high)


def test_what_structured_output_costs_is_told_with_its_own_times() -> None:
    done = run("--structured", "--prompt", "8", "--generate", "4", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["tokens_per_s"]) == {"free", "structured"}
    assert all(value > 0 for value in report["grammar_us"].values())
