"""The header of a safetensors file: whether it is sound, decided before MLX opens the file, and how it is written.

MLX itself accepts headers with holes, overlaps and negative dimensions; with one of them evaluation never
returns. The reference implementation refuses them, but its opener needs numpy; so these are its rules again, with
smaller limits, and a test holds the two against each other. Nor can the reference write what an import writes: it
wants the bytes of all tensors in memory, where an import holds a tensor at most, and it gives metadata another
order in each process, where a blob is named by its digest. Layout: 8 bytes little-endian length n, n bytes of JSON,
data.

    {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}

Knows nothing about arrays: it reads no tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadModelFiles, explain
from runner.store.files import require_regular
from runner.store.header_text import MAX_HEADER_BYTES, parse_header

MAX_RANK = 8  # dimensions; real tensors have five at most
MAX_DIMENSION = 2**31 - 1  # MLX's shapes are 32-bit: a larger one wraps around silently
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: `size` bytes from byte `start` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A file's tensors in the order of their bytes, and its free-form metadata."""

    tensors: list[Tensor]
    metadata: dict[str, str]


def read_header(path: Path, name: str) -> Header:
    """Raises BadModelFiles, naming the file and what is wrong, unless every byte is accounted for."""
    size = require_regular(path, name)
    try:
        text = _header(path, size)
        header, metadata = parse_header(text.decode())
        start = 8 + len(text)
        return Header(_checked_tensors(header, size - start, start), metadata)
    except (_Bad, ValueError, RecursionError, OSError) as error:
        raise BadModelFiles(f"{name}: not a valid safetensors file: {explain(error)}") from None


def make_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """For tensors, each a name, a dtype and a shape, whose data follow in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that data are aligned
    return len(text).to_bytes(8, "little") + text


class _Bad(Exception):
    """What is wrong with a header."""


def _header(path: Path, size: int) -> bytes:
    """The text of the header."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _Bad(f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    if not text.startswith(b"{"):
        raise _Bad("the header is not a JSON object")
    return text


def _checked_tensors(header: dict[str, Any], data_bytes: int, data_start: int) -> list[Tensor]:
    """The tensors' extents must cover the data exactly, in some order, without holes or overlaps."""
    tensors, covered = [], 0
    for begin, end, name in sorted(_extent(name, entry) for name, entry in header.items()):
        if begin != covered:
            raise _Bad(f"tensor {name!r} begins at {begin}, expected {covered}")
        covered = end
        entry = header[name]
        tensors.append(Tensor(name, entry["dtype"], tuple(entry["shape"]), data_start + begin, end - begin))
    if covered != data_bytes:
        raise _Bad(f"tensors fill {covered} bytes, the file has {data_bytes} bytes of data")
    return tensors


def _extent(name: str, entry: Any) -> tuple[int, int, str]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Bad(f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _Bad(f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _Bad(f"tensor {name!r} has a shape or offsets that are no sizes")
    if len(shape) > MAX_RANK:
        raise _Bad(f"tensor {name!r} has {len(shape)} dimensions, limit {MAX_RANK}")
    if any(dimension > MAX_DIMENSION for dimension in shape):
        raise _Bad(f"tensor {name!r} has a dimension above {MAX_DIMENSION}")
    begin, end = offsets
    needed = math.prod(shape) * BITS[dtype] // 8
    if end - begin != needed:
        raise _Bad(f"tensor {name!r} needs {needed} bytes, its extent is {begin} to {end}")
    return begin, end, name


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
