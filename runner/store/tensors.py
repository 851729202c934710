"""The tensors of all files of a model: which there are, and which file each is in.

Knows nothing about arrays: it reads headers only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runner.errors import BadModelFiles
from runner.store.files import WeightFile
from runner.store.safetensors_header import Header, Tensor, read_header


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor and the file that it is in."""

    file: WeightFile
    tensor: Tensor


def read_headers(files: Iterable[WeightFile]) -> list[tuple[WeightFile, Header]]:
    """Raises BadModelFiles for a file that is no safetensors."""
    return [(file, read_header(file.path, file.name)) for file in files]


def by_name(files: Iterable[tuple[WeightFile, Header]]) -> dict[str, Located]:
    """The tensors of all files."""
    found: dict[str, Located] = {}
    for file, header in files:
        for tensor in header.tensors:
            if tensor.name in found:
                raise BadModelFiles(
                    f"tensor {tensor.name} is there twice, in {found[tensor.name].file.name} and in {file.name}"
                )
            found[tensor.name] = Located(file, tensor)
    return found
