"""A long prompt waits between operations where the device makes room far ahead of what it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.kernels import choice, pacing
from runner.kernels.pacing import LEAST_AHEAD, MOST_AHEAD, SHARE, Pace
from runner.kernels.product import MOST, PLAIN
from tests.parts.checkpoints import checkpoint, floats
from tests.parts.models import loaded, parameters
from tests.parts.quantized import Q4, in_mlx_spelling

LONG = MOST + 1


@pytest.fixture
def waited_for(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `mx.eval` was asked for."""
    found: list[float] = []
    monkeypatch.setattr(choice, "prepares_ahead", lambda: True)
    monkeypatch.setattr(mx, "eval", lambda x: found.append(x[0].item()))
    return found


def fed(pace: Callable[[mx.array, int], None], sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        pace(mx.full((4,), number, mx.float32), size)


@pytest.mark.parametrize(
    ("ahead", "sizes", "waits"),
    [
        (10, [10, 10, 10, 10, 10], [1, 2, 3]),  # 1 to 4 are begun, each while the one before is waited for
        (20, [10, 10, 10, 10, 10, 10, 10], [2, 4]),
        (100, [10] * 9, []),
        (10, [50, 1, 1, 50, 1], [1, 3]),  # what is larger than that goes alone
    ],
)
def test_whoever_makes_something_waits_for_what_was_begun_before_the_last(
    waited_for: list[float], ahead: int, sizes: list[int], waits: list[float]
) -> None:
    fed(Pace(ahead), sizes)
    assert waited_for == waits


@pytest.mark.parametrize(("positions", "waits"), [(MOST, []), (LONG, [1, 2, 3, 4])])
def test_few_positions_never_wait(
    waited_for: list[float], monkeypatch: pytest.MonkeyPatch, positions: int, waits: list[float]
) -> None:
    monkeypatch.setattr(pacing, "_ahead", 1)
    with pacing.paced(positions):
        fed(pacing.about_to_make, [10] * 6)
    assert waited_for == waits


def test_no_device_but_one_that_makes_room_ahead_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[mx.array] = []
    monkeypatch.setattr(mx, "eval", found.append)
    monkeypatch.setattr(pacing, "_ahead", 1)
    with pacing.paced(LONG):
        fed(pacing.about_to_make, [10] * 6)
    assert not found


@pytest.mark.parametrize(
    ("free", "ahead"),
    [(0, LEAST_AHEAD), (-1, LEAST_AHEAD), (SHARE << 26, 1 << 26), (1 << 40, MOST_AHEAD)],
)
def test_what_is_prepared_ahead_is_a_share_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, ahead: int
) -> None:
    monkeypatch.setattr(pacing, "_ahead", pacing._ahead)  # and back
    monkeypatch.setattr(choice, "prepares_ahead", lambda: True)
    assert pacing.allow(free) == 2 * ahead
    monkeypatch.setattr(choice, "prepares_ahead", lambda: False)
    assert pacing.allow(free) == 0


def made(monkeypatch: pytest.MonkeyPatch, model: Any, positions: int) -> int:
    """Bytes that one forward says it is about to make."""
    found: list[int] = []
    monkeypatch.setattr(choice, "prepares_ahead", lambda: True)
    monkeypatch.setattr(Pace, "__call__", lambda self, x, nbytes: found.append(nbytes))
    memory = model.make_memory()
    model(mx.zeros((1, positions), mx.int32), memory.span(positions), memory)
    return sum(found)


def test_layers_tell_what_they_make_and_packed_ones_what_they_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    whole: Any = loaded(folder).model
    dense = sum(
        array.nbytes for name, array in parameters(whole).items() if ".layers." in name and array.ndim == 2
    )
    packed: Any = loaded(folder, packed=True).model
    activations = made(monkeypatch, whole, LONG)
    assert activations >= 16 * LONG * 4  # sixteen times x, and more than one number wide
    assert made(monkeypatch, packed, LONG) == activations
    monkeypatch.setattr(choice, "products", lambda: PLAIN)
    as_floats: Any = loaded(folder, packed=True).model
    assert made(monkeypatch, as_floats, LONG) == activations + dense


def test_nobody_waits_outside_a_forward(waited_for: list[float]) -> None:
    for _ in range(6):
        pacing.about_to_make(mx.zeros(4), MOST_AHEAD)
    assert not waited_for
