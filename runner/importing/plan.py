"""What an import writes: blobs, the tensors in each, and the bytes that each tensor is made of.

Knows nothing about arrays, or about why something is planned: that is `planning.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.quantization.names import IN_THE_STORE
from runner.quantization.settings import KINDS, Quantization
from runner.store.files import WeightFile
from runner.store.safetensors_header import BITS
from runner.store.tensors import Located


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes of a file: a tensor, one matrix of a stack, or rows of a matrix. inverted: one over each of its
    numbers, of F32, is meant.
    """

    file: WeightFile
    start: int
    size: int
    inverted: bool = False

    @classmethod
    def of(cls, located: Located, *, inverted: bool = False) -> Source:
        """The whole tensor."""
        return cls(located.file, located.tensor.start, located.tensor.size, inverted)


@dataclass(frozen=True, slots=True)
class Turned:
    """Each source is [in, step * out], and every `step`-th row of its transpose is meant, from `first` on."""

    first: int = 0
    step: int = 1


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor: its sources one behind the other. With a `kind` each source is a matrix to be quantized, or some
    rows of one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    kind: str | None = None
    turned: Turned | None = None

    @property
    def how(self) -> Quantization:
        assert self.kind is not None
        return KINDS[self.kind]

    @property
    def stored(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of what is written: the tensor, or codes, scales and, for affine, biases."""
        if self.kind is None:
            return [(self.name, self.dtype, self.shape)]
        *rows, width = self.shape
        groups = (*rows, width // self.how.group_size)
        codes = (self.name, "U32", (*rows, width * self.how.bits // 32))
        scales, biases = (self.name + IN_THE_STORE[role] for role in ("scales", "biases"))
        if self.how.mode != "affine":
            return [codes, (scales, "U8", groups)]
        return [codes, (scales, self.dtype, groups), (biases, self.dtype, groups)]


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of the store."""

    name: str
    items: tuple[Item, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The blobs, and what a host shows of them."""

    blobs: tuple[Blob, ...]
    file_type: str
    """What most of the model is, "" if that cannot be said in a word."""
    quantized: bool
    parameters: int
    kinds: Counter[str]
    """How many tensors are int4, BF16 and so on."""

    @property
    def source_bytes(self) -> int:
        """To be read; more than there are where one source is read twice."""
        return sum(source.size for blob in self.blobs for item in blob.items for source in item.sources)

    @property
    def weight_bytes(self) -> int:
        """To be written, headers left out."""
        stored = (entry for blob in self.blobs for item in blob.items for entry in item.stored)
        return sum(math.prod(shape) * BITS[dtype] // 8 for _, dtype, shape in stored)
