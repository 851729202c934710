"""An entry as a file: safetensors, so that anybody can look into it.

    header | tokens U32 [N] | arrays, as `cache/saved.py` names them | checksums U32

metadata: `identity`, which says of what model it is; `points`, the memory's checkpoints; `end`, the furthest
position that it can be restored to. The checksums, CRC-32, are of the header and of everything else before them,
each array on its own, so that who restores a beginning reads and checks no more. They find what a broken disk or a
torn write left; against malice there are the permissions.

Nothing of a file is believed before it was checked: extents and sizes by `store/safetensors_header.py`, types and
shapes against those of the loaded model, bytes against their checksums. Only then an array is made.

Knows nothing about slots, folders or models.
"""

from __future__ import annotations

import array
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from runner.cache.saved import Saved
from runner.store.safetensors_header import Tensor, make_header, read_header

TOKENS, CHECKSUMS = "tokens", "checksums"
TOKEN_BYTES = CHECKSUM_BYTES = 4
# By the names that headers have for them.
DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "U32": mx.uint32,
    "I32": mx.int32, "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Form(NamedTuple):
    """What an array has to be; None: any length."""

    dtype: str
    shape: tuple[int | None, ...]


Forms = Mapping[str, Form]
"""By `stem`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a file without its arrays. tokens: four bytes each. leeway: as a memory has it."""

    name: str
    size: int
    tokens: bytes
    points: tuple[int, ...]
    end: int
    leeway: int | None

    @property
    def length(self) -> int:
        """How many tokens."""
        return len(self.tokens) // TOKEN_BYTES

    def reach(self, prompt: bytes, most: int) -> int:
        """The furthest position, at most `most`, up to which it holds the prompt and can be restored to."""
        shared = min(common_tokens(self.tokens, prompt), most, self.end)
        if self.leeway is None:
            return shared
        ends = [(min(shared, point), point) for point in (*self.points, self.end)]
        return max((near for near, point in ends if near >= point - self.leeway), default=0)


def packed_tokens(tokens: Sequence[int]) -> bytes:
    """Four bytes each."""
    return array.array("I", tokens).tobytes()


def common_tokens(a: bytes, b: bytes) -> int:
    """How many leading tokens are the same."""
    same, differ = 0, min(len(a), len(b)) // TOKEN_BYTES + 1
    while differ - same > 1:
        middle = (same + differ) // 2
        part = slice(same * TOKEN_BYTES, middle * TOKEN_BYTES)
        same, differ = (middle, differ) if a[part] == b[part] else (same, middle)
    return same


def stem(name: str) -> str:
    """What an array is, without the position where it begins."""
    kind, layer, what, _, *number = name.split(".")
    return ".".join([kind, layer, what, *number])


def forms(arrays: Saved) -> dict[str, Form]:
    """Of what a memory saved: what the model's arrays have to be. Rows may be of any number, states may not."""
    found = {}
    for name in arrays:
        dtype, shape = DTYPE_NAMES[arrays[name].dtype], arrays[name].shape
        is_state = name.split(".")[2] == "state"
        found[stem(name)] = Form(dtype, shape if is_state else (*shape[:2], None, *shape[3:]))
    return found


def entry_header(identity: str, entry: Entry, arrays: Saved) -> bytes:
    """For a file of these arrays, in this order, between tokens and checksums."""
    tensors: list[tuple[str, str, tuple[int, ...]]] = [(TOKENS, "U32", (entry.length,))]
    for name in arrays:
        tensors.append((name, DTYPE_NAMES[arrays[name].dtype], arrays[name].shape))
    tensors.append((CHECKSUMS, "U32", (len(tensors) + 1,)))
    points = ",".join(map(str, entry.points))
    return make_header(tensors, {"identity": identity, "points": points, "end": str(entry.end)})


def array_bytes(array: mx.array) -> bytes:
    """What stands in a file for it."""
    flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    return bytes(memoryview(flat))  # type: ignore[arg-type]  # the stub does not know that it is a buffer


class Arrays(Saved):
    """The arrays of a file, read and checked when they are asked for."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], checksums: Mapping[str, int]) -> None:
        self._path = path
        self._tensors = tensors
        self._checksums = checksums

    def __getitem__(self, name: str) -> mx.array:
        tensor = self._tensors[name]
        data = _read(self._path, tensor.start, tensor.size, self._checksums[name])
        raw = mx.array(memoryview(data))  # type: ignore[arg-type]  # nor that it takes one
        return raw.view(DTYPES[tensor.dtype]).reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_entry(path: Path, identity: str, expected: Forms, leeway: int | None) -> tuple[Entry, Arrays]:
    """Raises OSError, BadModelFiles, ValueError or KeyError for what is no entry of this model."""
    header = read_header(path, path.name)
    if header.metadata.get("identity") != identity:
        raise ValueError("it is of another model or version")
    first, *others, last = header.tensors
    if (first.name, first.dtype, last.name, last.dtype) != (TOKENS, "U32", CHECKSUMS, "U32"):
        raise ValueError("no tokens or no checksums")
    sums = array.array("I", _read(path, last.start, last.size))
    if len(sums) != len(others) + 2 or zlib.crc32(_read(path, 0, first.start)) != sums[0]:
        raise ValueError("the header is damaged")
    _require(others, expected)
    tokens = _read(path, first.start, first.size, sums[1])
    points = tuple(int(point) for point in header.metadata["points"].split(",") if point)
    entry = Entry(
        path.name, last.start + last.size, bytes(tokens), points, int(header.metadata["end"]), leeway
    )
    named = {tensor.name: tensor for tensor in others}
    return entry, Arrays(path, named, dict(zip(named, sums[2:], strict=True)))


def _require(tensors: Sequence[Tensor], expected: Forms) -> None:
    for tensor in tensors:
        form = expected[stem(tensor.name)]
        fits = len(tensor.shape) == len(form.shape) and all(
            want in (None, size) for size, want in zip(tensor.shape, form.shape, strict=True)
        )
        if not fits or tensor.dtype != form.dtype or not tensor.size:
            raise ValueError(f"{tensor.name} is {tensor.dtype} {list(tensor.shape)}")


def _read(path: Path, start: int, size: int, checksum: int | None = None) -> bytearray:
    data = bytearray(size)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        view, got = memoryview(data), 0
        while got < size and (more := file.readinto(view[got:])):
            got += more
    if got < size:
        raise ValueError(f"it ends at byte {start + got}")
    if checksum is not None and zlib.crc32(data) != checksum:
        raise ValueError(f"bytes {start} to {start + size} are damaged")
    return data
