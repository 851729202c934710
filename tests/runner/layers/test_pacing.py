"""A long prompt waits between layers where the device makes room far ahead of what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.kernels import choice
from runner.kernels.product import MOST, PLAIN
from runner.layers import pacing
from runner.layers.pacing import Pace, floats_of
from tests.parts.checkpoints import checkpoint, floats
from tests.parts.models import loaded, parameters
from tests.parts.quantized import Q4, in_mlx_spelling


@pytest.fixture
def waited_for(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `mx.eval` was asked for."""
    found: list[float] = []
    monkeypatch.setattr(choice, "prepares_ahead", lambda: True)
    monkeypatch.setattr(mx, "eval", lambda x: found.append(x[0].item()))
    return found


def fed(pace: Pace, layers: int) -> None:
    for layer in range(layers):
        pace(mx.full((1024,), layer, mx.float32))  # 4 KB, so 64 KB are made of it


@pytest.mark.parametrize(
    ("ahead", "floats", "waits"),
    [
        (65_536, 0, [1, 2, 3, 4]),  # with each one for the one before, but for the first
        (2 * 65_536, 0, [2]),  # 2 and 4 are begun
        (6 * 65_536, 0, []),
        (2 * 65_536, 65_536, [1, 2, 3, 4]),  # packed weights that become floats count, too
    ],
)
def test_a_forward_waits_for_what_lies_some_layers_back(
    waited_for: list[float], monkeypatch: pytest.MonkeyPatch, ahead: int, floats: int, waits: list[float]
) -> None:
    monkeypatch.setattr(pacing, "AHEAD", ahead)
    fed(Pace(MOST + 1, floats), 6)
    assert waited_for == waits


def test_few_positions_never_wait(waited_for: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "AHEAD", 1)
    fed(Pace(MOST, 0), 6)
    assert not waited_for


def test_no_device_but_one_that_makes_room_ahead_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[mx.array] = []
    monkeypatch.setattr(pacing, "AHEAD", 1)
    monkeypatch.setattr(mx, "eval", found.append)
    fed(Pace(MOST + 1, 0), 6)
    assert not found


def test_packed_layers_tell_what_they_become_where_they_become_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    whole: Any = loaded(folder).model
    dense = sum(
        array.nbytes for name, array in parameters(whole).items() if ".layers." in name and array.ndim == 2
    )
    packed: Any = loaded(folder, packed=True).model
    assert floats_of(packed.model.layers) == 0
    monkeypatch.setattr(choice, "products", lambda: PLAIN)
    as_floats: Any = loaded(folder, packed=True).model
    assert floats_of(as_floats.model.layers) == dense // len(whole.model.layers)
