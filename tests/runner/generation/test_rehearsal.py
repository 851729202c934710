"""A rehearsal leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner.cache.slots import Held, Slots
from runner.generation.alone import complete
from runner.generation.rehearsal import rehearse
from runner.kernels.rows_attention import PLAIN, AtOnce
from tests.parts.fakes import request, text_of
from tests.parts.models import loaded


@pytest.mark.parametrize("at_once", [None, PLAIN])
def test_answers_behind_a_rehearsal_are_those_without(tiny_model: Path, at_once: AtOnce | None) -> None:
    model = loaded(tiny_model)
    model = replace(model, slots=Slots(model.model.make_memory, 3))
    expected = text_of(complete(model, request("hello", max_tokens=8)))
    fresh = replace(model, slots=Slots(model.model.make_memory, 3))
    assert list(rehearse(fresh, at_once)) == ["alone", "a draw", "a draw", "2 rows", "3 rows"]
    assert fresh.slots.held() == [Held(False, 0, 0)] * 3
    assert text_of(complete(fresh, request("hello", max_tokens=8))) == expected
