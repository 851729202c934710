"""The CUDA sources are whole for every shape; what they compute is tested where there is a CUDA device."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.kernels import product_cuda, rows_attention_cuda
from runner.kernels.product_cuda import Shape as ProductShape
from runner.kernels.rows_attention_cuda import Shape

SHAPES = [
    Shape(32, 8, 128, mx.bfloat16, 32, None, 128**-0.5),
    Shape(9, 3, 64, mx.float32, 2, 1024, 0.125, sinks=True),
    Shape(9, 3, 64, mx.float32, 2, None, 0.125, form="look"),
    Shape(32, 8, 64, mx.bfloat16, 1, None, 0.125, form="joint", dims=64, eps=1e-6),
    Shape(32, 8, 64, mx.bfloat16, 1, None, 0.125, form="joint", dims=32),
]
PRODUCTS = [
    ProductShape(2048, 4096, bits, 64, eps, gated, bias, lines)
    for bits, eps, gated, bias, lines in [
        (0, None, False, False, 0),
        (4, 1e-5, True, True, 1000),
        (8, 1e-6, False, True, 7),
    ]
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of MLX."""
    kernels: list[dict[str, Any]] = []
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **parts: kernels.append(parts))
    return kernels


def test_an_attention_source_has_no_gap_and_names_every_input(made: list[dict[str, Any]]) -> None:
    for shape in SHAPES:
        rows_attention_cuda._kernel.__wrapped__(shape)
    for parts, shape in zip(made, SHAPES, strict=True):
        check(parts)
        assert sum(name.startswith("k") and name[1:].isdigit() for name in parts["input_names"]) == shape.most
    assert len({parts["name"] for parts in made}) == len(SHAPES)


def test_a_product_source_has_no_gap_and_names_every_input(made: list[dict[str, Any]]) -> None:
    for shape in PRODUCTS:
        for columns in (1, 2, 4):
            for residual in (False, True):
                product_cuda._kernel.__wrapped__(shape, columns, residual)
    for parts in made:
        check(parts)
    assert len({parts["name"] for parts in made}) == 6 * len(PRODUCTS)


def check(parts: dict[str, Any]) -> None:
    whole = parts["source"] + parts.get("header", "")
    assert "%(" not in whole
    assert "%%" not in whole
    assert parts["name"].isidentifier()
    for name in [*parts["input_names"], *parts["output_names"]]:
        assert name in parts["source"]
