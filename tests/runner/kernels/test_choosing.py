"""The largest logit and how it is told: the plain form, and CUDA kernels, run on a CPU by `tests/parts/cuda`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from runner.kernels import choice, choosing_cuda, compiled
from runner.kernels.choosing import BROKEN, PLAIN, Choosing, checked
from runner.machine import device
from tests.parts.cuda import COMPILER, emulated
from tests.parts.sampling import ids

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
CACHED = choosing_cuda.cuda, choosing_cuda._largest, choosing_cuda._tell
DTYPES = [mx.float32, mx.bfloat16, mx.float16]
LONG = 2 * choosing_cuda.SHARE + 905  # two blocks for a row, and an end that fills no read


@pytest.fixture
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Choosing]:
    folder: Path = tmp_path_factory.getbasetemp() / "kernels"
    folder.mkdir(exist_ok=True)
    for kept in CACHED:
        kept.cache_clear()
    monkeypatch.setattr(compiled, "kernel", emulated(folder))
    yield choosing_cuda.cuda()
    for kept in CACHED:
        kept.cache_clear()


needs_gpu = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")
FORMS = ["plain", pytest.param("emulated", marks=needs_compiler), pytest.param("on a GPU", marks=needs_gpu)]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Choosing:
    if request.param == "emulated":
        made: Choosing = request.getfixturevalue("on_a_cpu")
        return made
    return PLAIN if request.param == "plain" else choosing_cuda.cuda()


def found(form: Choosing, logits: mx.array) -> tuple[list[int], list[int]]:
    """The tokens, and what the host reads."""
    tokens, told = form.largest(logits)
    assert tokens.dtype == mx.uint32
    return ids(tokens), [number for array in told for number in ids(array)][: tokens.size]


def noise(rows: int, size: int = LONG) -> np.ndarray[Any, Any]:
    """Below 4."""
    return np.random.default_rng(size).uniform(-4, 4, (rows, size)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_is_found_wherever_it_stands_and_told(form: Choosing, dtype: mx.Dtype) -> None:
    """Rows of an odd length begin anywhere between two reads."""
    places = [0, 1, 2000, choosing_cuda.SHARE, LONG - 2, LONG - 1, 3, 4100, 7]
    logits = noise(len(places))
    logits[range(len(places)), places] = 5
    assert found(form, mx.array(logits).astype(dtype)) == (places, places)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_lowest_id_wins_among_equals_in_one_block_and_in_several(form: Choosing, dtype: mx.Dtype) -> None:
    equals = [(5, 6), (6, 1030), (800, 2060), (300, 4000), (0, LONG - 1), (2600, 2601)]
    logits = noise(len(equals))
    for row, places in zip(logits, equals, strict=True):
        row[list(places)] = 6
    first = [low for low, _ in equals]
    assert found(form, mx.array(logits).astype(dtype)) == (first, first)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_has_no_number_is_told_to_be_broken_and_those_beside_it_are_whole(
    form: Choosing, dtype: mx.Dtype, bad: float
) -> None:
    logits = noise(5)
    logits[:, 8] = 6
    logits[1, 0] = logits[3, -1] = bad
    tokens, told = found(form, mx.array(logits).astype(dtype))
    assert told == [8, BROKEN, 8, BROKEN, 8]
    assert [tokens[row] for row in (0, 2, 4)] == [8] * 3
    assert all(token < LONG for token in tokens)


@pytest.mark.parametrize("size", [1, 2, 5, 12, 300, LONG])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_token_that_may_come_is_enough_and_without_any_it_is_still_one_of_the_vocabulary(
    form: Choosing, dtype: mx.Dtype, size: int
) -> None:
    logits = np.full((3, size), -np.inf, np.float32)
    logits[0, -1], logits[1, size // 2] = -3, -1e4
    expected = [size - 1, size // 2, 0]
    assert found(form, mx.array(logits).astype(dtype)) == (expected, expected)


@pytest.mark.parametrize("rows", [1, 2, 3, 31, 32, 33])
def test_any_number_of_rows_is_told_time_after_time(form: Choosing, rows: int) -> None:
    for turn in range(3):
        logits = noise(rows, LONG + turn)
        expected = [int(token) for token in logits.argmax(axis=1)]
        assert found(form, mx.array(logits)) == (expected, expected)
        tokens = mx.array(expected, mx.uint32)
        assert [number for array in form.tell(tokens) for number in ids(array)][:rows] == expected


@needs_compiler
def test_the_kernel_finds_what_the_plain_form_finds_in_a_part_of_an_array(on_a_cpu: Choosing) -> None:
    logits = mx.array(noise(4))[1:3]
    assert found(on_a_cpu, logits) == found(PLAIN, logits)


@needs_compiler
def test_what_the_host_reads_is_of_a_size_that_lies_where_it_reads(on_a_cpu: Choosing) -> None:
    """MLX keeps arrays of up to 8 bytes in the host's memory."""
    for rows in (1, 2, 3, 9, 32):
        told = [*on_a_cpu.largest(mx.array(noise(rows, 12))).told, *on_a_cpu.tell(mx.zeros(rows, mx.uint32))]
        assert all(array.nbytes <= 8 for array in told)


@needs_compiler
def test_what_blocks_share_lies_in_the_gpus_memory_and_is_one_calls_own(
    on_a_cpu: Choosing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX may run calls that are in one graph at the same time."""
    run, most = choosing_cuda._largest(mx.float32, 1), choosing_cuda.MOST
    turns: list[int] = []

    def kernel(
        inputs: Sequence[mx.array], grid: object, block: object, shapes: Sequence[Any], numbers: Sequence[int]
    ) -> list[mx.array]:
        """As if others were under way."""
        logits, waiting = inputs
        waiting[:] = 1000
        waiting[numbers[1] : numbers[1] + most] = 0
        before = mx.array(waiting)
        made = run([logits, waiting], grid, block, shapes, numbers)  # type: ignore[arg-type]  # passed on
        assert mx.array_equal(waiting, before)
        assert all(array.nbytes > 8 for array in (waiting, *made[1:3]))
        turns.append(numbers[1] // most)
        return made

    monkeypatch.setattr(choosing_cuda, "_largest", lambda dtype, pairs: kernel)
    for _ in range(3):
        logits = mx.array(noise(1))
        assert found(on_a_cpu, logits) == found(PLAIN, logits)
    assert len(set(turns)) == 3


def test_finite_logits_whose_sum_overflows_are_broken_to_the_plain_form_only() -> None:
    logits = mx.array([[3e38, 3e38], [1.0, 2.0]])
    assert found(PLAIN, logits) == ([0, 1], [BROKEN, 1])
    assert ids(checked(mx.array([0, 0], mx.uint32), logits)) == [BROKEN, 0]


@needs_compiler
def test_finite_logits_whose_sum_overflows_are_whole_to_the_kernel(on_a_cpu: Choosing) -> None:
    assert found(on_a_cpu, mx.array([[3e38, 3e38], [1.0, 2.0]])) == ([0, 1], [0, 1])


def test_a_device_with_our_kernels_has_them_and_any_other_one_the_operations_of_mlx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "works", lambda: True)
    for kind in ("cpu", "metal"):
        monkeypatch.setattr(device, "kind", partial(str, kind))
        assert choice.choosing() is PLAIN
    monkeypatch.setattr(device, "kind", lambda: "cuda")
    assert choice.choosing() is choosing_cuda.cuda()
    monkeypatch.setattr(compiled, "works", lambda: False)
    assert choice.choosing() is PLAIN
