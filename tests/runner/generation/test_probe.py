"""What a probe of a few positions foretells of many."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from runner.cache.need import foretold
from runner.generation.budget import Limits
from runner.generation.probe import measured
from runner.loading.loaded_model import LoadedModel
from runner.machine import memory
from tests.parts.models import forward, loaded
from tests.parts.rows import KINDS, fresh

CHUNK = 64


@pytest.fixture(scope="module")
def slow(slow_model: Path) -> LoadedModel:
    return loaded(slow_model)


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize(("fed", "seen"), [(64, 64), (256, 256), (64, 1024), (256, 1280)])
def test_a_chunk_takes_no_more_than_was_foretold_nor_much_less(
    slow: LoadedModel, fed: int, seen: int
) -> None:
    model = slow.model
    limits = Limits(0, measured(model, model.make_memory()), 256)
    held = model.make_memory()
    held.reserve(seen)
    for start in range(0, seen - fed, 256):
        mx.eval(forward(model, held, [1] * min(256, seen - fed - start)), held.arrays())
    if held.offset == 0:
        mx.eval(forward(model, held, [1]), held.arrays())
        held.rewind(0)
    memory.release_buffers()
    before, kept = memory.active(), held.nbytes
    mx.reset_peak_memory()
    mx.eval(forward(model, held, [1] * fed), held.arrays())
    taken = mx.get_peak_memory() - before - (held.nbytes - kept)
    assert taken <= limits.passing(fed, seen, 0) <= 2 * taken


@pytest.mark.parametrize("kind", KINDS)
def test_what_storages_will_hold_is_foretold_from_what_they_hold(kind: str) -> None:
    model = fresh(kind, 1).model
    needs = measured(model, model.make_memory()).needs
    held = model.make_memory()
    held.reserve(200)
    for _ in range(3):
        held.checkpoint()
        mx.eval(forward(model, held, [1] * CHUNK), held.arrays())
    assert held.nbytes <= foretold(needs, 200, CHUNK) <= 2 * held.nbytes
