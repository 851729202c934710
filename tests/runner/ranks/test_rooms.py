"""Processes find each other's rooms and add up there, or all do without. Threads stand for processes, a small
library for the driver, and kernels run on a CPU.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from runner.kernels import compiled, peer_sum_cuda
from runner.machine import cuda, cuda_rooms
from runner.ranks import rooms
from runner.ranks.rooms import near_sum
from runner.sharding.group import Group
from tests.parts.cuda import COMPILER, HERE, emulated
from tests.parts.ranks import together

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert COMPILER is not None
    library = tmp_path / "driver.so"
    subprocess.run(
        [COMPILER, "-x", "c", "-shared", "-fPIC", str(HERE / "driver.c"), "-o", str(library)], check=True
    )
    monkeypatch.setattr(cuda, "DRIVER", str(library))
    monkeypatch.setattr(compiled, "kernel", emulated(tmp_path))
    for kept in (cuda_rooms._driver, peer_sum_cuda._kernel):
        kept.cache_clear()
    yield
    for kept in (cuda_rooms._driver, peer_sum_cuda._kernel):
        kept.cache_clear()


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_added_up_in_rooms_is_the_sum_of_the_group(driver: None, ranks: int) -> None:
    def sums(group: Group) -> list[list[float]]:
        near = near_sum(group)
        assert near is not None
        x = mx.arange(16, dtype=mx.float32) * (group.rank + 1)
        return [near(x + number).tolist() for number in range(5)]  # type: ignore[misc]  # typed as object

    factor = sum(range(1, ranks + 1))
    exact = [(np.arange(16) * factor + ranks * number).tolist() for number in range(5)]
    assert together(ranks, sums) == [exact] * ranks


def test_one_without_a_driver_leaves_all_to_the_usual_sums(
    driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cuda_rooms.made

    def refused(size: int) -> tuple[int, bytes]:
        if not handed:
            handed.append(size)
            raise cuda_rooms.RoomError("cuMemAlloc failed with 2")
        return made(size)

    handed: list[int] = []
    monkeypatch.setattr(cuda_rooms, "made", refused)
    assert together(2, near_sum) == [None, None]


def test_a_room_that_another_cannot_open_leaves_all_to_the_usual_sums(
    driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a process on another machine."""
    monkeypatch.setattr(cuda_rooms, "PEERS", 0)
    assert together(2, near_sum) == [None, None]


def test_sums_that_are_wrong_are_not_used(
    driver: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rooms, "_is_right", lambda group, near, count: group.rank != 1)
    assert together(2, near_sum) == [None, None]
    assert "are wrong on this machine" in caplog.text


def test_a_machine_without_the_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DRIVER", "libno-such-driver.so.1")
    cuda_rooms._driver.cache_clear()
    with pytest.raises(cuda_rooms.RoomError, match="no-such-driver"):
        cuda_rooms.made(64)
