"""The fused half of a block with experts computes what the block does; the plain forms stand for the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from runner.config.decoder import DecoderConfig
from runner.kernels.experts import PLAIN as PLAIN_MIXING
from runner.kernels.product import PLAIN as PLAIN_PRODUCTS
from runner.kernels.product import Norm
from runner.layers.fused_experts import MixtureHalf, mixture_half
from runner.layers.joined import join
from runner.layers.mlp import GatedMLP
from runner.layers.moe import SparseMLP
from runner.layers.packed import replace
from runner.layers.shared_expert import SharedSparseMLP
from runner.quantization.matrix import Packed
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts.arrays import difference, noise
from tests.parts.quantized import Q4, Q8, quantize

HIDDEN, WIDTH = 64, 128
CONFIG = DecoderConfig(300, HIDDEN, WIDTH, 2, 4, 2, 16, 1e-5, 512, tie_word_embeddings=True)
NORM = Norm(1 + 0.1 * noise(HIDDEN, seed=4), 1e-5)
FOLLOWING = mx.zeros((8, 64))
How = Callable[[str], Quantization | None]


def mixture(*, normalized: bool) -> SparseMLP:
    return SparseMLP(HIDDEN, WIDTH, experts=5, active=3, normalized=normalized)


def with_shared(shared: int = WIDTH) -> SparseMLP:
    return SharedSparseMLP(CONFIG, WIDTH, shared, experts=5, active=3, normalized=True)


def ready(mlp: SparseMLP, how: How = lambda path: None) -> SparseMLP:
    """With random weights, packed as `how` says of their paths, and joined."""
    packed: dict[str, Packed] = {}
    flat: Any = tree_flatten(mlp.parameters())  # type: ignore[no-untyped-call]  # mlx leaves it open
    for seed, (name, array) in enumerate(flat):
        weight, path = array.shape[-1] ** -0.5 * noise(*array.shape, seed=seed), name.removesuffix(".weight")
        settings = how(path)
        if settings is None:
            mlp.load_weights([(name, weight)], strict=False)
        else:
            codes, scales, *biases = quantize(weight, settings)
            factor = mx.array([1 + seed / 10]) if settings.mode == "nvfp4" else None
            shift = biases[0] if biases else None
            packed[path] = Packed(settings, weight.shape, codes, scales, shift, factor)
    replace(mlp, packed, dict.fromkeys(packed, mx.float32))
    join(mlp)
    return mlp


def half(mlp: object) -> MixtureHalf | None:
    return mixture_half(mlp, NORM, FOLLOWING, PLAIN_PRODUCTS, PLAIN_MIXING)


def converted(path: str) -> Quantization:
    """As files have it: routers keep more bits."""
    return Q8 if path.endswith("gate") else Q4


@pytest.mark.parametrize(
    "how",
    [lambda path: None, converted, lambda path: FLOAT_MODES["nvfp4"]],
    ids=["floats", "packed", "nvfp4 with global scales"],
)
@pytest.mark.parametrize(
    "mlp",
    [
        lambda: mixture(normalized=True),
        lambda: mixture(normalized=False),
        with_shared,
        lambda: with_shared(64),
    ],
    ids=["normalized", "odds as they are", "shared", "shared of another width"],
)
def test_the_fused_half_is_the_mixture_behind_its_norm_added_to_what_came_in(
    mlp: Callable[[], SparseMLP], how: How
) -> None:
    made, x = ready(mlp(), how), noise(4, 1, HIDDEN, seed=3)
    fused = half(made)
    assert fused is not None
    expected = x + made(mx.fast.rms_norm(x, NORM.weight, NORM.eps))
    assert difference(fused(x), expected) < 1e-5


@pytest.mark.parametrize("part", ["gate", "shared_expert.up_proj"])
def test_a_mixture_with_a_part_of_another_kind_is_not_fused(part: str) -> None:
    """It cannot be joined."""
    assert half(ready(with_shared(), lambda path: FLOAT_MODES["mxfp4"] if path == part else Q4)) is None


def test_other_mlps_are_not_fused() -> None:
    assert half(GatedMLP(CONFIG)) is None
