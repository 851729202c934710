"""Layers that read the same input become one product: the same numbers, and only where they are of one kind."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import mlx.core as mx
import pytest

from runner.kernels import choice
from runner.kernels.product import MOST, PLAIN
from runner.layers import nn
from runner.layers.joined import Joinable, join
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts.arrays import difference
from tests.parts.checkpoints import TOKENS, checkpoint, floats
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import Q4, Q8, in_mlx_spelling, with_global_scales

WIDTH = 64
SIZES = {"one": 96, "two": 32, "three": 64}
X = mx.sin(mx.arange(2.0 * 3 * WIDTH)).reshape(2, 3, WIDTH)


class Three(Joinable):
    joins: ClassVar = {"all_three": tuple(SIZES)}

    def __init__(self, *biases: str) -> None:
        super().__init__()
        for name, size in SIZES.items():
            self[name] = nn.Linear(WIDTH, size, bias=name in biases)


@pytest.mark.parametrize("biases", [(), tuple(SIZES)])
def test_joined_layers_give_what_they_gave_apart(biases: tuple[str, ...]) -> None:
    module = Three(*biases)
    apart = [mx.array(output) for output in module.outputs("all_three", X)]
    join(module)
    assert set(module) == {"all_three"}
    for ours, expected in zip(module.outputs("all_three", X), apart, strict=True):
        assert mx.allclose(ours, expected, atol=1e-6)


def test_layers_stay_apart_if_only_some_have_a_bias() -> None:
    module = Three("two")
    join(module)
    assert set(module) == set(SIZES)


@pytest.mark.parametrize("up", [Q4, Q8, FLOAT_MODES["mxfp4"]], ids=str)
@pytest.mark.parametrize("gate", [Q4, FLOAT_MODES["mxfp4"]], ids=str)
def test_packed_layers_are_joined_where_they_are_of_one_kind(
    tmp_path: Path, gate: Quantization, up: Quantization
) -> None:
    kinds = {"gate_proj": gate, "up_proj": up}
    tensors = in_mlx_spelling(floats(), lambda path: kinds.get(path.rpartition(".")[2]))
    model = loaded(checkpoint(tmp_path / "model", tensors), packed=True).model
    names = {name.split(".mlp.")[1].split(".")[0] for name in parameters(model) if ".mlp." in name}
    assert ("gate_up_proj" in names) == (gate == up)
    dense = loaded(tmp_path / "model").model
    assert difference(logits(model, TOKENS), logits(dense, TOKENS)) < 1e-4


@pytest.mark.parametrize("settings", [Q4, Q8, FLOAT_MODES["mxfp4"], FLOAT_MODES["nvfp4"]], ids=str)
def test_packed_layers_give_the_same_for_few_positions_and_for_many(
    tmp_path: Path, settings: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: few positions go through a form of ours where there is one, many are multiplied with floats."""
    tensors = in_mlx_spelling(floats(), lambda path: settings)
    if settings.mode == "nvfp4":
        tensors = with_global_scales(tensors)
    folder = checkpoint(tmp_path / "model", tensors)
    expected = logits(loaded(folder, packed=True).model, TOKENS)
    monkeypatch.setattr(choice, "products", lambda: PLAIN)
    model = loaded(folder, packed=True).model
    assert len(TOKENS) < MOST
    many = [*TOKENS, *TOKENS * (MOST // len(TOKENS) + 1)]
    assert difference(logits(model, TOKENS, (1,)), expected) < 1e-4
    assert difference(logits(model, many)[: len(TOKENS)], expected) < 1e-4
