"""Float weights lie in memory as the device reads them fastest, and are the same weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from runner.kernels import by_inputs, choice
from runner.layers import nn
from runner.layers.decoder import CausalLM
from runner.layers.laying import lay_head, lay_layers
from runner.machine import device
from runner.models import build
from tests.parts import tiny
from tests.parts.checkpoints import checkpoint, floats
from tests.parts.models import loaded, parameters
from tests.parts.quantized import Q4, in_mlx_spelling

WIDE = (4096, 576)


def lies_by_inputs(weight: mx.array) -> bool:
    """Whether the numbers of an input stand together."""
    return np.asarray(weight).strides == (weight.itemsize, weight.itemsize * weight.shape[0])


@pytest.fixture
def wherever_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "lies_by_inputs", lambda weight: weight.ndim == 2)


@pytest.mark.parametrize("shape", [(2, 3), (127, 64), (128, 64), (300, 7)])
def test_only_the_place_in_memory_differs(shape: tuple[int, int]) -> None:
    weight = mx.random.normal(shape, key=mx.random.key(1))
    laid = by_inputs.by_inputs(weight)
    mx.eval(weight, laid)
    assert laid.shape == shape
    assert mx.array_equal(laid, weight)
    assert lies_by_inputs(laid)


@pytest.mark.parametrize(
    ("weight", "suits"),
    [
        (mx.zeros(WIDE), True),
        (mx.zeros(WIDE[::-1]), False),  # the sums are long as it is
        (mx.zeros((576, 576)), False),
        (mx.zeros((8192, 2048)), False),
        (mx.zeros((256, 255)), False),  # stays in a processor's cache
        (mx.zeros(WIDE, mx.bfloat16), False),  # computed with in another way
        (mx.zeros((2, *WIDE)), False),
    ],
)
def test_wide_weights_of_few_inputs_suit(weight: mx.array, suits: bool) -> None:
    assert by_inputs.suits(weight) == suits


@pytest.mark.parametrize("kind", ["cpu", "metal", "cuda"])
@pytest.mark.parametrize("is_faster", [True, False])
def test_it_is_done_on_a_cpu_that_was_seen_to_be_faster_so(
    monkeypatch: pytest.MonkeyPatch, kind: device.Kind, is_faster: bool
) -> None:
    monkeypatch.setattr(device, "kind", lambda: kind)
    monkeypatch.setattr(by_inputs, "is_faster", lambda: is_faster)
    assert choice.lies_by_inputs(mx.zeros(WIDE)) == (kind == "cpu" and is_faster)


def test_small_weights_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried() -> bool:
        raise AssertionError

    monkeypatch.setattr(by_inputs, "is_faster", tried)
    assert not choice.lies_by_inputs(mx.zeros((64, 64)))


def test_a_trial_has_an_answer() -> None:
    assert by_inputs.is_faster() in (True, False)


@pytest.mark.usefixtures("wherever_it_can_be")
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_lies_so_only_if_it_is_the_head(tied: bool) -> None:
    model = build(tiny.CONFIG | {"tie_word_embeddings": tied})
    assert isinstance(model, CausalLM)
    modules: list[object] = model.modules()  # type: ignore[no-untyped-call]  # mlx leaves it open
    linear = sum(type(module) is nn.Linear for module in modules)
    lay_head(model)
    assert lay_layers(model) == linear - (not tied)
    assert lies_by_inputs(model.model.embed_tokens.weight) == tied


@pytest.mark.usefixtures("wherever_it_can_be")
def test_packed_weights_stay_as_they_are(tmp_path: Path) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: Q4)
    model = loaded(checkpoint(tmp_path / "model", tensors), packed=True).model
    packed = [array for array in parameters(model).values() if array.dtype == mx.uint32]
    assert packed
    assert not any(map(lies_by_inputs, packed))


def test_a_loaded_model_has_them_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(by_inputs, "LEAST", 1)
    monkeypatch.setattr(by_inputs, "is_faster", lambda: True)
    model = loaded(tiny.write(tmp_path / "tiny")).model
    wide = [array for array in parameters(model).values() if by_inputs.suits(array)]
    assert wide
    assert all(map(lies_by_inputs, wide))
