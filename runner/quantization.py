"""Quantized tensors as stored: which belong together, what their settings are, and what they stand for.

A quantized matrix [.., N, W] is several tensors under one path X, here always in MLX's own names:

    X.weight        uint32 [.., N, W*bits/32]   codes, the first in the lowest bits, in one stream along the row
    X.scales        [.., N, W/group_size]       floats for affine; a byte, E8M0 or E4M3, for the others
    X.biases        as scales                   affine only: value = scale * code + bias
    X.global_scale  scalar, [1] or one each     nvfp4 only, at will: a plain factor of the whole matrix

mlx-community checkpoints are spelled so. Ollama's store has X.weight.scale, X.weight.bias, and for the factor
K.global_scale or K_scale_2, K being X.weight or X; a linear layer's own bias is X.bias in both. OpenAI's gpt-oss
has X_blocks, uint8 [.., N, W/32, 16], and X_scales, uint8 [.., N, W/32]: the same bytes as mxfp4's.

A built model knows W, so shapes alone give bits and group size, and the scales' type the mode: what cannot be
told apart without a model (4 bits by 32 and 8 by 64, say) is never in doubt. What is written beside a tensor
(a blob's metadata, a path's entry in config.json) must agree; the defaults of config.json are only defaults,
since mixed checkpoints do not list every exception.

Knows nothing about architectures, devices or requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from runner.errors import BadModelFiles, UnsupportedModel
from runner.store.safetensors_header import Header

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_KERNEL_GROUPS = (32, 64, 128)  # what MLX's kernels take; other sizes are dequantized here
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
MAX_SHOWN = 60

SCALES, BIASES, GLOBAL = ".scales", ".biases", ".global_scale"
COMPANIONS = (SCALES, BIASES, GLOBAL)
STORE_SPELLING = {
    ".weight.scale": SCALES,
    ".weight.bias": BIASES,
    ".weight.global_scale": GLOBAL,
    ".weight_scale_2": GLOBAL,
    "_scale_2": GLOBAL,
}
BLOCKS, BLOCK_SCALES = "_blocks", "_scales"
BLOCK_BYTES = 16  # of 32 codes
READ_METHODS = ("mxfp4",)  # names of other tools' layouts that are read here
IGNORED = (".input_scale", ".input_global_scale")  # for quantized activations, which we do not have
PREFIXES = ("model.language_model.", "language_model.model.")  # what multimodal checkpoints have for "model."


@dataclass(frozen=True, slots=True)
class Quantization:
    """How codes become numbers."""

    group_size: int
    bits: int
    mode: Mode

    @property
    def has_kernel(self) -> bool:
        """Whether MLX multiplies by it as it is."""
        return self.mode != "affine" or self.group_size in AFFINE_KERNEL_GROUPS

    def __str__(self) -> str:
        return f"{self.mode} {self.bits} bits by {self.group_size}"


FLOAT_MODES: dict[str, Quantization] = {
    "mxfp4": Quantization(32, 4, "mxfp4"),
    "mxfp8": Quantization(32, 8, "mxfp8"),
    "nvfp4": Quantization(16, 4, "nvfp4"),
}
# The store's quant_type, in small letters. "fp4" and "fp8" are its old words for int4 and int8.
AFFINE_TYPES = {f"{word}{bits}": bits for word in ("int", "q") for bits in AFFINE_BITS} | {"fp4": 4, "fp8": 8}


@dataclass(frozen=True, slots=True)
class Declared:
    """What is written beside a tensor, None where nothing is; `where` is for errors."""

    where: str
    group_size: int | None = None
    bits: int | None = None
    mode: str | None = None


NOTHING = Declared("")


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


def common_spelling(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The tensors in MLX's names, without those that only quantized activations need."""
    named: dict[str, mx.array] = {}
    for name, array in _without_blocks(weights):
        short = _in_mlx_spelling(name)
        if short in named:
            raise BadModelFiles(f"tensor {short} is there twice, in two spellings")
        if not name.endswith(IGNORED):
            named[short] = array
    return named


def _in_mlx_spelling(name: str) -> str:
    for ending, ours in STORE_SPELLING.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + ours
    return name


def _without_blocks(weights: Mapping[str, mx.array]) -> Iterator[tuple[str, mx.array]]:
    """Pairs of blocks and scales under MLX's names; other tensors pass.

    The first code is in a byte's lower half, so four bytes are MLX's word of eight codes (little-endian, as every
    machine here is).
    """
    for name, array in weights.items():
        path = name.removesuffix(BLOCKS).removesuffix(BLOCK_SCALES)
        if name.endswith(BLOCKS):
            _check_blocks(path, array, weights.get(f"{path}{BLOCK_SCALES}"))
            yield f"{path}.weight", array.view(mx.uint32).flatten(-2)
        elif name.endswith(BLOCK_SCALES) and array.dtype == mx.uint8:
            if f"{path}{BLOCKS}" not in weights:
                raise BadModelFiles(f"{name} without {path}{BLOCKS}")
            yield f"{path}{SCALES}", array
        else:
            yield name, array


def _check_blocks(path: str, blocks: mx.array, scales: mx.array | None) -> None:
    name, scales_name = f"{path}{BLOCKS}", f"{path}{BLOCK_SCALES}"
    if scales is None:
        raise BadModelFiles(f"{name} without {scales_name}")
    if blocks.dtype != mx.uint8 or blocks.ndim < 3 or blocks.shape[-1] != BLOCK_BYTES:
        raise BadModelFiles(f"{name} is {_shown(blocks)}, expected uint8 in blocks of {BLOCK_BYTES}")
    if scales.dtype != mx.uint8 or scales.shape != blocks.shape[:-1]:
        raise BadModelFiles(f"{scales_name} {_shown(scales)} do not fit {name} {_shown(blocks)}")


def declarations(config: dict[str, Any], headers: Iterable[Header]) -> dict[str, Declared]:
    """Path -> what is written about it: in config.json, or in its file's metadata, which wins."""
    found: dict[str, Declared] = {}
    section = _section(config)
    for path, entry in section.items():
        if isinstance(entry, dict):
            where = f"config.json: quantization of {path}"
            size, bits = (_number(entry.get(key), f"{where}: {key}") for key in ("group_size", "bits"))
            found[path] = Declared(where, size, bits, entry.get("mode", "affine" if bits else None))
    for header in headers:
        found.update(_stored(header))
    return {_own_path(path): said for path, said in found.items()}


def _own_path(path: str) -> str:
    """The path that models rename it to, unless they do more than take a prefix away."""
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return f"model.{path.removeprefix(prefix)}"
    return path.removeprefix("language_model.")


def _section(config: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm writes it under two names, of which the second is also that of other tools' settings."""
    section = config.get("quantization") or config.get("quantization_config") or {}
    if not isinstance(section, dict):
        raise BadModelFiles(f"config.json: quantization is a {type(section).__name__}, expected an object")
    return {} if "quant_method" in section else section


def _stored(header: Header) -> Iterator[tuple[str, Declared]]:
    names = {tensor.name for tensor in header.tensors}
    for name in names:
        short = _in_mlx_spelling(name)
        if not short.endswith(SCALES):
            continue
        path = short.removesuffix(SCALES)
        for prefix in (f"{path}.weight.", f"{path}.", ""):
            if kind := header.metadata.get(f"{prefix}quant_type"):
                yield path, _declared(path, kind, header.metadata.get(f"{prefix}group_size"))
                break


def _declared(path: str, kind: str, size: str | None) -> Declared:
    where, known = f"metadata of {path}.weight", kind.lower()
    group_size = _number(size, f"{where}: group_size")
    if known in FLOAT_MODES:
        settings = FLOAT_MODES[known]
        return Declared(where, group_size or settings.group_size, settings.bits, known)
    if known in AFFINE_TYPES:
        return Declared(where, group_size, AFFINE_TYPES[known], "affine")
    raise UnsupportedModel(f"{where}: unknown quant_type {kind[:MAX_SHOWN]!r}")


def _number(value: Any, what: str) -> int | None:
    """A positive integer, or the digits of one."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:MAX_SHOWN])
    if type(value) is not int or value <= 0:
        raise BadModelFiles(f"{what} is {str(value)[:MAX_SHOWN]!r}, expected a positive integer")
    return value


def refuse_foreign(config: dict[str, Any], headers: Iterable[Header]) -> None:
    """Checkpoints in the layouts of other tools, told by their name in config.json.

    A store keeps the config.json of what it converted, so tensors in its spelling count for more. What is called
    by the name of a layout that we read is told by its tensors, too.
    """
    section = config.get("quantization_config")
    if "quantization" in config or not isinstance(section, dict) or "quant_method" not in section:
        return
    if section["quant_method"] in READ_METHODS:
        return
    if not any(tensor.name.endswith(".weight.scale") for header in headers for tensor in header.tensors):
        method = str(section["quant_method"])[:MAX_SHOWN]
        raise UnsupportedModel(f"quantization method {method!r} is not supported: give a checkpoint for MLX")


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
        path = name.rpartition(".")[0]
        if name.endswith(COMPANIONS):
            if f"{path}.weight" not in weights:
                raise BadModelFiles(f"{name} without {path}.weight")
            if f"{path}{SCALES}" not in weights:
                raise BadModelFiles(f"{name} without {path}{SCALES}")
        elif array.dtype == mx.uint32 and name == f"{path}.weight" and f"{path}{SCALES}" not in weights:
            raise BadModelFiles(f"{name} is packed (uint32), but there are no scales for it")
        if name.endswith(SCALES) and f"{path}.weight" in shapes:
            found[path] = _checked(path, weights, shapes[f"{path}.weight"], declared.get(path, NOTHING))
    return found


def _checked(
    path: str, weights: Mapping[str, mx.array], shape: tuple[int, ...], declared: Declared
) -> Packed:
    name, weight, scales = f"{path}.weight", weights[f"{path}.weight"], weights[f"{path}{SCALES}"]
    biases, factor = weights.get(f"{path}{BIASES}"), weights.get(f"{path}{GLOBAL}")
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
        raise BadModelFiles(f"{path}{BIASES} {_shown(biases)} do not fit scales {_shown(scales)}")
    if factor is not None and (
        settings.mode != "nvfp4"
        or factor.dtype not in FLOATS
        or factor.size not in (1, math.prod(shape[:-2]))
    ):
        raise BadModelFiles(f"{path}{GLOBAL} {_shown(factor)} does not fit {name}: {settings}")
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


def dense_bytes(shapes: Iterable[tuple[int, ...]], itemsize: int) -> int:
    """What matrices of these shapes take as floats."""
    return sum(math.prod(shape) * itemsize for shape in shapes)
