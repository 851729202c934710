"""What is written about quantized tensors, in their names, beside them and in config.json.

The parts of a quantized matrix X stand at the head of `runner/quantization/collect.py`, in MLX's own names, which
mlx-community checkpoints have: X.weight, X.scales, X.biases, X.global_scale. Ollama's store has X.weight,
X.weight.scale, X.weight.bias, and for the factor K.global_scale or K_scale_2, K being X.weight or X; a linear
layer's own bias is X.bias in both. A blob of the store says in its metadata what it holds: quant_type and
group_size, for all of it or, behind a tensor's name and a dot, for that tensor.

Knows nothing about arrays or architectures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from runner.errors import BadModelFiles, UnsupportedModel
from runner.store.safetensors_header import Header, Tensor

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_KERNEL_GROUPS = (32, 64, 128)  # what MLX's kernels take; other sizes are dequantized at load
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
READ_METHODS = ("mxfp4",)  # names of other tools' layouts that are read here
BLOCKS, BLOCK_SCALES = "_blocks", "_scales"  # OpenAI's, of mxfp4
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
# What `import --quantize` makes, by the store's names.
KINDS: dict[str, Quantization] = {
    "int4": Quantization(64, 4, "affine"),
    "int8": Quantization(64, 8, "affine"),
    **FLOAT_MODES,
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


def in_mlx_spelling(name: str) -> str:
    """A tensor's name as MLX has it, from either spelling."""
    for ending, ours in STORE_SPELLING.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + ours
    return name


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
    return {own_path(path): said for path, said in found.items()}


def own_path(path: str) -> str:
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
        short = in_mlx_spelling(name)
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


def quant_type(settings: Quantization | None) -> str:
    """The store's word for them."""
    if settings is None:
        return "unknown"
    return f"int{settings.bits}" if settings.mode == "affine" else settings.mode


def kind_text(settings: Quantization | None) -> str:
    """For people: int4 (64)."""
    return f"{quant_type(settings)} ({settings.group_size})" if settings else "unknown"


def logical_count(codes: Tensor, settings: Quantization | None) -> int:
    """How many numbers packed codes stand for; by the most common bits if their settings are in doubt."""
    return codes.count * 32 // (settings.bits if settings else 4)


class Written:
    """The settings of each quantized matrix, as far as they can be told without building the model.

    Shapes give bits times group size, which settles the modes with byte scales. For affine ones it leaves a choice,
    which what is written about the matrix makes, or else the group size of config.json.
    """

    def __init__(self, config: dict[str, Any], headers: Iterable[Header]) -> None:
        self._declared = declarations(config, headers)
        self._group_size = _number(_section(config).get("group_size"), "config.json: group_size")

    def settings(self, path: str, codes: Tensor, scales: Tensor) -> Quantization | None:
        """path: of the matrix, in MLX's spelling. None if they are in doubt."""
        columns, groups = _columns(codes), _columns(scales)
        if codes.dtype != "U32" or not groups or 32 * columns % groups:
            raise BadModelFiles(
                f"{path}.weight: codes {_shown(codes)} and scales {_shown(scales)} do not fit"
            )
        product = 32 * columns // groups
        if scales.dtype == "U8":
            modes = (mode for mode in FLOAT_MODES.values() if mode.bits * mode.group_size == product)
            return next(modes, None)
        said = self._declared.get(own_path(path), NOTHING)
        fitting = [
            Quantization(product // bits, bits, "affine") for bits in AFFINE_BITS if product % bits == 0
        ]
        named = [it for it in fitting if it.bits == said.bits or it.group_size == said.group_size]
        usual = [it for it in fitting if it.group_size == self._group_size]
        return next(iter(named or usual), None)


def _columns(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.shape else 0


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tensor.shape}"
