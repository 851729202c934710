"""What has to agree before keys and values of another process are taken for ours: the model, how it computes, and
the versions of what computes.

A digest of all weights would read a large model once more at every load. So their files are known by name, size and
time, and some bytes of every tensor are looked at: a model that was changed in place has another time, and one that
was put in its place with the same time has other numbers.

Knows nothing about entries.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from importlib.metadata import version

import mlx.core as mx

from runner.cache.memory import Memory
from runner.disk.entry import Forms
from runner.models.base import Model
from runner.store.files import ModelFiles
from runner.store.tensors import read_headers

FORMAT = "1"  # of entries; another one where what is written means something else
SAMPLE = 4096  # bytes from the middle of a tensor


def probe(model: Model, memory: Memory) -> Memory:
    """A fresh memory with what the model remembers of two tokens, a checkpoint included."""
    mx.eval(model(mx.array([[0, 0]]), memory.span(2), memory))
    memory.checkpoint()
    return memory


def identity(files: ModelFiles, device: str, expected: Forms) -> str:
    """Hexadecimal digits. device: its kind, since numbers of another one differ in their last bits."""
    digest = hashlib.sha256()
    versions = [FORMAT, version("mlx-runner"), version("mlx"), device]
    for part in (versions, files.config, sorted(expected.items())):
        digest.update(json.dumps(part, sort_keys=True).encode())
    for data in _samples(files):
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _samples(files: ModelFiles) -> Iterator[bytes]:
    for weights, header in read_headers(files.weights):
        with weights.path.open("rb", buffering=0) as file:
            status = os.stat(file.fileno())
            yield f"{weights.path.name} {status.st_size} {status.st_mtime_ns}".encode()
            for tensor in header.tensors:
                yield f"{tensor.name} {tensor.dtype} {tensor.shape}".encode()
                file.seek(tensor.start + max(0, tensor.size - SAMPLE) // 2)
                yield file.read(min(SAMPLE, tensor.size))
