"""Quantized matrices as arrays: their parts found and checked against the model, and the numbers they stand for.

What the parts are stands at the head of `runner/quantization/collect.py`, which names are theirs in `names.py`.

Knows nothing about architectures, devices or requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from runner.errors import BadModelFiles
from runner.quantization.collect import Part, classify, part_of, require_whole, stored_names
from runner.quantization.declared import MAX_SHOWN, NOTHING, Declared
from runner.quantization.names import COMPANIONS
from runner.quantization.settings import AFFINE_BITS, FLOAT_MODES, Quantization

# By the names that headers have for them.
DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U8": mx.uint8, "U32": mx.uint32}
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
BLOCK_BYTES = 16  # of 32 codes


@dataclass(frozen=True, slots=True)
class Packed:
    """One quantized matrix of `shape`, its parts checked against each other."""

    settings: Quantization
    shape: tuple[int, ...]
    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    global_scale: mx.array | None

    def dtype(self, common: mx.Dtype) -> mx.Dtype:
        """The float type that it stands for: that of affine scales; byte scales do not say, so the common one."""
        return common if self.biases is None else self.scales.dtype

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """[.., N, W] in the given float type, unevaluated."""
        settings = self.settings
        scales = self.scales if self.biases is None else self.scales.astype(dtype)
        biases = None if self.biases is None else self.biases.astype(dtype)
        if biases is not None and not settings.has_kernel:
            codes = unpack(self.weight, settings.bits).reshape(*scales.shape, settings.group_size)
            dense = (codes.astype(dtype) * scales[..., None] + biases[..., None]).reshape(self.shape)
        else:
            dense = mx.dequantize(
                self.weight,
                scales,
                biases,
                group_size=settings.group_size,
                bits=settings.bits,
                mode=settings.mode,
                dtype=dtype,
            )
        return dense if self.global_scale is None else (dense * _factor(self.global_scale)).astype(dtype)

    def tensors(self, dtype: mx.Dtype) -> dict[str, mx.array]:
        """The parameters of a packed layer, to be computed with in `dtype`, by their names in it."""
        parts = {"weight": self.weight, "scales": self.scales}
        if self.biases is not None:
            parts |= {"scales": self.scales.astype(dtype), "biases": self.biases.astype(dtype)}
        if self.global_scale is not None:
            parts["global_scale"] = _factor(self.global_scale)
        return parts


def _factor(global_scale: mx.array) -> mx.array:
    """float32, shaped to multiply the matrix: a scalar, or one for each of a stack."""
    flat = global_scale.astype(mx.float32)
    return flat.reshape(()) if flat.size == 1 else flat.reshape(-1, 1, 1)


def unpack(weight: mx.array, bits: int) -> mx.array:
    """uint32 [.., C] -> codes, uint32 [.., C*32/bits]: the plain-operation twin of MLX's kernels."""
    starts = mx.arange(weight.shape[-1] * 32 // bits) * bits
    word, shift = starts // 32, (starts % 32).astype(mx.uint32)
    low = mx.take(weight, word, axis=-1) >> shift
    following = mx.take(weight, mx.minimum(word + 1, weight.shape[-1] - 1), axis=-1)
    # Shifted twice, since a shift by all 32 bits is undefined; a code that ends in its word loses these bits again.
    high = (following << (31 - shift)) << mx.array(1, mx.uint32)
    return (low | high) & mx.array((1 << bits) - 1, mx.uint32)


def in_mlx_layout(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The tensors with MLX's names, types and shapes, without those that only quantized activations need."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    parts = classify({name: names.get(array.dtype, "") for name, array in weights.items()})
    for part in parts.values():
        if part.layout == "blocks":
            require_whole(part, weights)
            _check_blocks(part, weights)
    return {name: _in_words(weights[stored], parts[stored]) for name, stored in stored_names(parts).items()}


def _in_words(array: mx.array, part: Part) -> mx.array:
    """Of blocks four bytes are MLX's word of eight codes (little-endian, as every machine here is)."""
    blocks = part.layout == "blocks" and part.role == "weight"
    return array.view(mx.uint32).flatten(-2) if blocks else array


def _check_blocks(part: Part, weights: Mapping[str, mx.array]) -> None:
    name, scales_name = part.sibling("weight"), part.sibling("scales")
    blocks, scales = weights[name], weights[scales_name]
    if blocks.dtype != mx.uint8 or blocks.ndim < 3 or blocks.shape[-1] != BLOCK_BYTES:
        raise BadModelFiles(f"{name} is {_shown(blocks)}, expected uint8 in blocks of {BLOCK_BYTES}")
    if scales.dtype != mx.uint8 or scales.shape != blocks.shape[:-1]:
        raise BadModelFiles(f"{scales_name} {_shown(scales)} do not fit {name} {_shown(blocks)}")


def common_dtype(weights: Mapping[str, mx.array]) -> mx.Dtype:
    """What a checkpoint was made to compute in: the type of its first float tensor that scales nothing.

    weights: in MLX's names, as stored; there is a norm, if nothing else.
    """
    floats = (a.dtype for name, a in weights.items() if not name.endswith(COMPANIONS) and a.dtype in FLOATS)
    return next(floats, mx.bfloat16)


def collect(
    weights: Mapping[str, mx.array],
    shapes: Mapping[str, tuple[int, ...]],
    declared: Mapping[str, Declared],
) -> dict[str, Packed]:
    """Path -> quantized matrix, for every path that the model has.

    weights: parameter name -> array; shapes: parameter name -> its shape in the float model. Raises BadModelFiles,
    naming the tensor, for parts that are missing or contradict each other or what is declared.
    """
    found: dict[str, Packed] = {}
    for name, array in weights.items():
        part = part_of(name, weights)
        require_whole(part, weights)
        if part.role is None and name.endswith(".weight") and array.dtype == mx.uint32:
            raise BadModelFiles(f"{name} is packed (uint32), but there are no scales for it")
        if part.role == "scales" and f"{part.path}.weight" in shapes:
            said = declared.get(part.path, NOTHING)
            found[part.path] = _checked(part.path, weights, shapes[f"{part.path}.weight"], said)
    return found


def _checked(
    path: str, weights: Mapping[str, mx.array], shape: tuple[int, ...], declared: Declared
) -> Packed:
    name, weight, scales = f"{path}.weight", weights[f"{path}.weight"], weights[f"{path}.scales"]
    biases, factor = weights.get(f"{path}.biases"), weights.get(f"{path}.global_scale")
    settings = _settings(name, weight, scales, shape)
    for what, said, is_ in (
        ("mode", declared.mode, settings.mode),
        ("bits", declared.bits, settings.bits),
        ("group_size", declared.group_size, settings.group_size),
    ):
        if said is not None and said != is_:
            raise BadModelFiles(
                f"{declared.where}: {what} is {str(said)[:MAX_SHOWN]}, but {name} is stored as {settings}"
            )
    if (biases is not None) != (settings.mode == "affine"):
        raise BadModelFiles(f"{name}: {settings} {'needs' if biases is None else 'has no'} biases")
    if biases is not None and (biases.shape != scales.shape or biases.dtype not in FLOATS):
        raise BadModelFiles(f"{path}.biases {_shown(biases)} do not fit scales {_shown(scales)}")
    if factor is not None and (
        settings.mode != "nvfp4"
        or factor.dtype not in FLOATS
        or factor.size not in (1, math.prod(shape[:-2]))
    ):
        raise BadModelFiles(f"{path}.global_scale {_shown(factor)} does not fit {name}: {settings}")
    return Packed(settings, shape, weight, scales, biases, factor)


def _settings(name: str, weight: mx.array, scales: mx.array, shape: tuple[int, ...]) -> Quantization:
    """From the shapes, given that of the float matrix."""
    if weight.dtype != mx.uint32:
        raise BadModelFiles(f"{name} has scales, but it is {_shown(weight)}, expected uint32")
    if scales.dtype != mx.uint8 and scales.dtype not in FLOATS:
        raise BadModelFiles(f"{name}: scales are {_shown(scales)}, expected floats or uint8")
    columns, groups, width = _columns(weight), _columns(scales), shape[-1]
    fits = weight.shape[:-1] == scales.shape[:-1] == shape[:-1] and len(shape) > 1
    if not fits or not groups or width % groups or (32 * columns) % width:
        raise BadModelFiles(
            f"{name}: packed {_shown(weight)} with scales {_shown(scales)} cannot stand for {tuple(shape)}"
        )
    group_size, bits = width // groups, 32 * columns // width
    if scales.dtype != mx.uint8:
        if bits not in AFFINE_BITS:
            raise BadModelFiles(f"{name}: {bits} bits, expected one of {', '.join(map(str, AFFINE_BITS))}")
        return Quantization(group_size, bits, "affine")
    for settings in FLOAT_MODES.values():
        if (settings.bits, settings.group_size) == (bits, group_size):
            return settings
    raise BadModelFiles(f"{name}: no mode has byte scales with {bits} bits by {group_size}")


def _columns(array: mx.array) -> int:
    return array.shape[-1] if array.ndim else 0


def _shown(array: mx.array) -> str:
    return f"{str(array.dtype).removeprefix('mlx.core.')} {tuple(array.shape)}"
