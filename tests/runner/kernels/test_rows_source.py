"""The CUDA sources are whole for every shape; what they compute is tested where there is a CUDA device."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.kernels import rows_attention_cuda
from runner.kernels.rows_attention_cuda import Shape

SHAPES = [
    Shape(32, 8, 128, mx.bfloat16, 32, None, 128**-0.5, False),
    Shape(9, 3, 64, mx.float32, 2, 1024, 0.125, True),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_source_has_no_gap_and_names_every_input(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **parts: made.append(parts))
    for make in (rows_attention_cuda._attend_kernel, rows_attention_cuda._join_kernel):
        make.__wrapped__(shape)
    for parts in made:
        assert "%(" not in parts["source"] + parts.get("header", "")
        assert parts["name"].isidentifier()
        for name in [*parts["input_names"], *parts["output_names"]]:
            assert name in parts["source"]
    assert len({parts["name"] for parts in made}) == 2
    assert sum(name.startswith("k") for name in made[0]["input_names"]) == shape.most
