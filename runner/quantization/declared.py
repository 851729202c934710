"""What is written about quantized matrices, in config.json and in the metadata of weight files, and what their
headers tell without a model.

A built model knows the width W of a matrix, so shapes alone give bits and group size, and the scales' type the
mode: what cannot be told apart without a model (4 bits by 32 and 8 by 64, say) is never in doubt. What is written
beside a matrix (a blob's metadata, a path's entry in config.json) must agree; the defaults of config.json are only
defaults, since mixed checkpoints do not list every exception. A blob of the store says in its metadata what it
holds: quant_type and group_size, for all of it or, behind a tensor's name and a dot, for that tensor.

Knows nothing about arrays or architectures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from runner.errors import BadModelFiles, UnsupportedModel
from runner.quantization.collect import Part
from runner.quantization.names import IN_THE_STORE, SCALES, WEIGHT, in_mlx_spelling, own_path
from runner.quantization.settings import AFFINE_BITS, AFFINE_TYPES, FLOAT_MODES, Quantization
from runner.store.safetensors_header import BITS, Header

MAX_SHOWN = 60
READ_METHODS = ("mxfp4",)  # names of other tools' layouts that are read here


@dataclass(frozen=True, slots=True)
class Declared:
    """What is written beside a tensor, None where nothing is; `where` is for errors."""

    where: str
    group_size: int | None = None
    bits: int | None = None
    mode: str | None = None


NOTHING = Declared("")


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
    of_the_store = f"{WEIGHT}{IN_THE_STORE['scales']}"
    if not any(tensor.name.endswith(of_the_store) for header in headers for tensor in header.tensors):
        method = str(section["quant_method"])[:MAX_SHOWN]
        raise UnsupportedModel(f"quantization method {method!r} is not supported: give a checkpoint for MLX")


class Typed(Protocol):
    """Anything of which a header says the type and the shape."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Written:
    """The settings of each quantized matrix, as far as they can be told without building the model.

    Shapes give bits times group size, which settles the modes with byte scales. For affine ones it leaves a choice,
    which what is written about the matrix makes, or else the group size of config.json.
    """

    def __init__(self, config: dict[str, Any], headers: Iterable[Header]) -> None:
        self._declared = declarations(config, headers)
        self._group_size = _number(_section(config).get("group_size"), "config.json: group_size")

    def settings(self, part: Part, codes: Typed, scales: Typed | None) -> Quantization | None:
        """part: what the codes are; they and their scales in MLX's types. None if the settings are in doubt."""
        if part.layout == "blocks":
            return FLOAT_MODES["mxfp4"]
        assert scales is not None
        columns, groups = _columns(codes), _columns(scales)
        if codes.dtype != "U32" or not groups or 32 * columns % groups:
            raise BadModelFiles(f"{part.name}: codes {_shown(codes)} and scales {_shown(scales)} do not fit")
        product = 32 * columns // groups
        if scales.dtype == "U8":
            modes = (mode for mode in FLOAT_MODES.values() if mode.bits * mode.group_size == product)
            return next(modes, None)
        said = self._declared.get(own_path(part.path), NOTHING)
        fitting = [
            Quantization(product // bits, bits, "affine") for bits in AFFINE_BITS if product % bits == 0
        ]
        named = [it for it in fitting if it.bits == said.bits or it.group_size == said.group_size]
        usual = [it for it in fitting if it.group_size == self._group_size]
        return next(iter(named or usual), None)


def logical_count(codes: Typed, settings: Quantization | None) -> int:
    """How many numbers packed codes stand for; by the most common bits if their settings are in doubt."""
    return math.prod(codes.shape) * BITS[codes.dtype] // (settings.bits if settings else 4)


def _columns(tensor: Typed) -> int:
    return tensor.shape[-1] if tensor.shape else 0


def _shown(tensor: Typed) -> str:
    return f"{tensor.dtype} {tensor.shape}"
