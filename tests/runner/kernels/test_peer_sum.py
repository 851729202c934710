"""Processes add up through memory that all can write to: threads stand for the processes, and run the kernel on a
CPU (`tests/parts/cuda`), each with a library of its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from runner.kernels import peer_sum_cuda as peers
from tests.parts.cuda import COMPILER, emulated

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
SHAPES = [(1, 1, 8), (3, 1, 512), (1, 1, 4096), (2, 5, 1000)]


@needs_compiler
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=str)
def test_all_find_the_sum_of_what_all_have_again_and_again(
    tmp_path: Path, dtype: mx.Dtype, ranks: int
) -> None:
    """Sums of several sizes, of one block and of more, in one order; bits are everybody's."""
    rooms = [np.zeros(peers.room_bytes(ranks) // 8 + 2, np.uint64) for _ in range(ranks)]
    addresses = [-(-room.ctypes.data // 16) * 16 for room in rooms]
    halves = [[address & 0xFFFFFFFF, address >> 32] for address in addresses]
    given = [
        [draw(rank, number, shape, dtype) for number, shape in enumerate(SHAPES * 3)] for rank in range(ranks)
    ]
    kernels = [emulated(folder(tmp_path, rank))(peers.program(dtype, rank, ranks)) for rank in range(ranks)]

    def all_sums(rank: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        found, table = [], mx.array(halves, mx.uint32)
        for numbers in given[rank]:
            x = mx.array(numbers).astype(dtype)
            assert peers.fits(x)
            packs = x.nbytes // peers.PACK
            blocks = min(peers.MOST_BLOCKS, -(-packs // peers.THREADS))
            grid, block = (peers.THREADS * blocks, 1, 1), (peers.THREADS, 1, 1)
            found.append(
                np.array(
                    kernels[rank]([x, table, table], grid, block, [x.shape], (packs,))[0].astype(mx.float32)
                )
            )
        return found

    with ThreadPoolExecutor(ranks) as pool:
        sums = list(pool.map(all_sums, range(ranks)))
    for parts, *found in zip(zip(*given, strict=True), *sums, strict=True):
        assert all(np.array_equal(found[0], other) for other in found[1:])
        exact = np.sum([np.array(mx.array(part).astype(dtype).astype(mx.float32)) for part in parts], axis=0)
        assert np.allclose(found[0], exact, rtol=2**-8 if dtype == mx.bfloat16 else 1e-6, atol=1e-6)


def test_a_sum_is_given_the_one_before_so_that_they_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[mx.array]] = []

    def kernel(inputs: list[mx.array], *_: object) -> list[mx.array]:
        given.append(inputs)
        return [inputs[0] + 1]

    monkeypatch.setattr(peers, "_kernel", lambda *_: kernel)
    total = peers.cuda(0, 2, mx.zeros((2, 2), mx.uint32))
    found = [total(mx.ones(8)) for _ in range(3)]
    assert [inputs[2] is before for inputs, before in zip(given[1:], found, strict=False)] == [True, True]


def test_what_is_large_or_odd_goes_another_way() -> None:
    assert not peers.fits(mx.zeros((peers.MOST_BYTES // 2 + 8,), mx.bfloat16))
    assert not peers.fits(mx.zeros((1, 1, 12), mx.bfloat16))
    assert not peers.fits(mx.zeros((4,), mx.int32))
    assert not peers.fits(mx.zeros((0,), mx.float32))


def draw(
    rank: int, number: int, shape: tuple[int, ...], dtype: mx.Dtype
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng([rank, number]).standard_normal(shape).astype(np.float32)


def folder(path: Path, rank: int) -> Path:
    made = path / str(rank)
    made.mkdir()
    return made
