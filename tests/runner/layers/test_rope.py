"""The rotation against transformers' definition, written out as sums of cosines and sines."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import pytest

from runner.cache.span import Span
from runner.config.fields import Config
from runner.layers.rope import Rope
from tests.parts.rope import LLAMA3, PROPORTIONAL, YARN, D, frequencies, read


def rotated(x: list[float], position: int, angles: list[float], magnitude: float) -> list[float]:
    """transformers' rotate-half: number i turns with number i + dims/2; what is behind dims passes."""
    half = len(angles)
    out = list(x)
    for i, per_position in enumerate(angles):
        cos, sin = math.cos(position * per_position), math.sin(position * per_position)
        out[i] = magnitude * (x[i] * cos - x[i + half] * sin)
        out[i + half] = magnitude * (x[i + half] * cos + x[i] * sin)
    return out


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_scaling": {"type": "linear", "factor": 4}},
        {"rope_scaling": {"type": "dynamic", "factor": 4}},
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
        {"rope_scaling": YARN},
        {"partial_rotary_factor": 0.5},
        {"partial_rotary_factor": 0.25, "rope_scaling": {"type": "linear", "factor": 4}},
        {"rope_parameters": {"partial_rotary_factor": 0.5, **YARN}},
        {"rope_parameters": {"partial_rotary_factor": 0.5, **PROPORTIONAL}},
    ],
    ids=str,
)
def test_rotation_is_the_written_formula(config: Config) -> None:
    """Scores of a rotated query with a rotated key, so that a factor folded into the score scale counts too."""
    made = read(config)
    rope = Rope(made, D)
    query, key = (mx.random.normal((1, 1, 3, D), key=mx.random.key(seed)) for seed in (1, 2))
    queries, keys = (rope(x, Span(start, 3))[0, 0] for x, start in ((query, 90), (key, 7)))
    scores = rope.score_scale * (queries @ keys.T)
    for i in range(3):
        for j in range(3):
            left = rotated(query[0, 0, i].tolist(), 90 + i, frequencies(made), made.magnitude)  # type: ignore[arg-type]  # a list of floats, by its shape
            right = rotated(key[0, 0, j].tolist(), 7 + j, frequencies(made), made.magnitude)  # type: ignore[arg-type]  # as above
            assert scores[i, j].item() == pytest.approx(
                sum(a * b for a, b in zip(left, right, strict=True)), abs=2e-4
            )


def test_partial_rotary_leaves_the_rest_alone() -> None:
    rope = Rope(read({"partial_rotary_factor": 0.5}), D)
    x = mx.random.normal((1, 2, 4, D), key=mx.random.key(3))
    turned = rope(x, Span(5, 4))
    assert mx.array_equal(turned[..., 8:], x[..., 8:])
    assert not mx.allclose(turned[..., :8], x[..., :8]).item()


@pytest.mark.parametrize("inside", [True, False])
def test_proportional_rope_turns_the_fastest_pairs_of_the_whole_head(inside: bool) -> None:
    """Whole pairs within the part, as transformers counts: 0.45 of 16 numbers are 3. mlx-lm takes one more."""
    part = {"partial_rotary_factor": 0.45}
    made = read(
        {"rope_parameters": PROPORTIONAL | part} if inside else {"rope_parameters": PROPORTIONAL, **part}
    )
    assert frequencies(made) == pytest.approx([10_000 ** (-i / D) / 4 for i in (0, 2, 4)] + [0] * 5)
    x = mx.random.normal((1, 2, 4, D), key=mx.random.key(3))
    turned = Rope(made, D)(x, Span(200, 4))
    still = [*range(3, 8), *range(11, 16)]
    assert mx.array_equal(turned[..., still], x[..., still]), "not by a bit"
    assert read({"rope_parameters": {"rope_type": "proportional"}}).periods == pytest.approx(
        [10_000 ** (i / D) for i in range(0, D, 2)]
    )


@pytest.mark.parametrize("config", [{}, {"rope_scaling": YARN}], ids=str)
def test_without_dims_nothing_changes_nor_does_the_score_scale(config: Config) -> None:
    """A layer without positions, whatever the other layers have."""
    rope = Rope(replace(read(config), dims=0), D)
    x = mx.random.normal((1, 2, 4, D), key=mx.random.key(4))
    assert mx.array_equal(rope(x, Span(5, 4)), x)
    assert rope.score_scale == 1.0
