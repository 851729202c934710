"""Quantized tensors, made by MLX's own arithmetic, in every spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from runner.kernels.product import Matrix
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts.checkpoints import Tensors, checkpoint, floats

Q4 = Quantization(64, 4, "affine")
Q8 = Quantization(64, 8, "affine")
EVERY_MODE = [Q4, Quantization(32, 3, "affine"), *FLOAT_MODES.values()]


def quantize(matrix: mx.array, how: Quantization) -> list[mx.array]:
    """Codes, scales and, of affine modes, biases."""
    return list(mx.quantize(matrix, how.group_size, how.bits, mode=how.mode))


def dequantize(parts: list[mx.array], how: Quantization) -> mx.array:
    """MLX's own, the reference."""
    codes, scales, *biases = parts
    return mx.dequantize(
        codes,
        scales,
        biases[0] if biases else None,
        group_size=how.group_size,
        bits=how.bits,
        mode=how.mode,
        dtype=mx.float32,
    )


def matrix(
    weight: mx.array,
    how: Quantization | None,
    bias: mx.array | None = None,
    factor: mx.array | None = None,
) -> Matrix:
    """As products have it."""
    if how is None:
        return Matrix(weight, bias=bias)
    codes, scales, *biases = quantize(weight, how)
    shift = biases[0] if biases else None
    return Matrix(codes, scales, shift, how.bits, how.group_size, bias, how.mode, factor, weight.dtype)


def named(path: str, parts: list[mx.array]) -> Tensors:
    """Under MLX's names."""
    return dict(zip((f"{path}.weight", f"{path}.scales", f"{path}.biases"), parts, strict=False))


def in_mlx_spelling(weights: Tensors, how: Callable[[str], Quantization | None]) -> Tensors:
    """A float checkpoint quantized path by path; None leaves a matrix as it is."""
    made: Tensors = {}
    for name, array in weights.items():
        path = name.removesuffix(".weight")
        if array.ndim == 2 and (settings := how(path)):
            made |= named(path, quantize(array, settings))
        else:
            made[name] = array
    return made


def with_global_scales(tensors: Tensors) -> Tensors:
    """One for each matrix, all different."""
    paths = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    return tensors | {f"{path}.global_scale": mx.array([1 + i / 10]) for i, path in enumerate(paths)}


def in_store_spelling(name: str) -> str:
    """MLX's name of a tensor as hosts have it in their stores."""
    for ours, theirs in ((".scales", ".weight.scale"), (".biases", ".weight.bias")):
        name = name.removesuffix(ours) + theirs if name.endswith(ours) else name
    return name.removesuffix(".global_scale") + ".weight.global_scale" if ".global" in name else name


def section(how: Quantization) -> dict[str, Any]:
    """What config.json says of it under `quantization`."""
    return {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}


def mixed(path: str) -> Quantization | None:
    """Every mode and several widths in one model; output projections stay floats."""
    kinds = {
        "embed_tokens": Q4,
        "q_proj": Q8,
        "k_proj": Quantization(32, 3, "affine"),
        "v_proj": Quantization(128, 6, "affine"),
        "o_proj": None,
        "gate_proj": FLOAT_MODES["nvfp4"],
        "up_proj": FLOAT_MODES["mxfp4"],
        "down_proj": FLOAT_MODES["mxfp8"],
        "lm_head": Quantization(32, 5, "affine"),
    }
    return kinds[path.rpartition(".")[2]]


def converted(tmp_path: Path, dtype: str) -> Path:
    """Mixed bits, by mlx-lm's own hand."""
    from mlx_lm.convert import convert

    def predicate(path: str, module: Any, config: Any = None) -> bool | dict[str, Any]:
        if "o_proj" in path:
            return False
        return {"group_size": 32, "bits": 6} if "down" in path or "embed" in path else True

    source = checkpoint(tmp_path / "source", floats())
    target = tmp_path / "converted"
    convert(
        str(source),
        str(target),
        quantize=True,
        q_group_size=64,
        q_bits=4,
        quant_predicate=predicate,
        dtype=dtype,
    )
    return target
