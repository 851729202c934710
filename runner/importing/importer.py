"""Writing a Hugging Face directory into an Ollama store, as the host's own import does, quantized or as it is.

`planning.py` decides what is written. Every blob is a safetensors file, made source by source, so that no more than
a tensor is in memory; then comes every JSON file; then the config that a host shows and chooses the runner by; the
manifest is last.

Knows nothing about arrays or architectures: whoever calls brings the function that quantizes a matrix.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadModelFiles
from runner.importing.blobs import Blobs, write_manifest
from runner.importing.plan import Blob, Item, Plan, Source
from runner.importing.planning import make_plan
from runner.store.files import parse_object, read_text
from runner.store.hf_dir import INDEX, licence_file, open_directory
from runner.store.names import Name
from runner.store.ollama import JSON, LICENSE, TEMPLATE, TENSOR
from runner.store.safetensors_header import make_header
from runner.store.tensors import read_headers

COPY_BYTES = 8 * 1024 * 1024
# Ollama's options, each with the names that generation_config.json may have for it.
GENERATION_DEFAULTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "top_k": (int, ("top_k",)),
    "top_p": (float, ("top_p",)),
    "min_p": (float, ("min_p",)),
    "temperature": (float, ("temperature",)),
    "repeat_last_n": (int, ("repeat_last_n", "penalty_last_n")),
    "repeat_penalty": (float, ("repetition_penalty", "repeat_penalty", "penalty_repeat")),
    "presence_penalty": (float, ("presence_penalty",)),
    "frequency_penalty": (float, ("frequency_penalty",)),
}

Progress = Callable[[int, int, str], None]
"""Called with the bytes that are read, their total, and the tensor that is written now; "" at the end."""

Quantize = Callable[[Item, bytes], Sequence[bytes]]
"""One source of an item as bytes -> codes, scales and, for affine, biases."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What an import wrote."""

    name: Name
    plan: Plan
    weight_bytes: int
    """In the store; those of the directory are `source_bytes`."""
    source_bytes: int


def import_directory(
    folder: Path,
    name: Name,
    root: Path,
    template: str | None,
    progress: Progress,
    *,
    kind: str | None = None,
    quantize: Quantize | None = None,
) -> Summary:
    """Write the model and its manifest; replaces a model of the same name.

    template: a chat template in Go's language, which hosts need to chat with it. kind: a key of KINDS for what
    `quantize` does to the matrices that `policy.py` picks. Raises BadModelFiles or UnsupportedModel before anything
    is written that a host would see.
    """
    files = open_directory(folder, folder.name)
    headers = read_headers(files.weights)
    plan = make_plan(files.config, headers, kind)
    described = [*_descriptions(folder), *_texts(folder, template)]  # what is wrong with them is said at once
    blobs = Blobs(root)
    writing = _Writing(progress, plan.source_bytes, quantize)
    layers = [
        {"mediaType": TENSOR, **blobs.add(writing.file(blob)), "name": blob.name} for blob in plan.blobs
    ]
    progress(plan.source_bytes, plan.source_bytes, "")
    layers += [{**layer, **blobs.add([text.encode()])} for layer, text in described]
    config = _host_config(files.config, files.generation_config, plan)
    write_manifest(root, name, blobs.add([json.dumps(config).encode()]), layers)
    source_bytes = sum(tensor.size for _, header in headers for tensor in header.tensors)
    return Summary(name, plan, plan.weight_bytes, source_bytes)


class _Writing:
    """Makes the bytes of one blob after the other."""

    def __init__(self, progress: Progress, total: int, quantize: Quantize | None) -> None:
        self._progress, self._total, self._quantize = progress, total, quantize
        self._done = 0

    def file(self, blob: Blob) -> Iterator[bytes]:
        """A safetensors file: first what is written as it comes, then the scales and biases that came with it."""
        entries, later = [], []
        for item in blob.items:
            first, *rest = item.stored
            entries.append(first)
            later += rest
        yield make_header([*entries, *later], blob.metadata)
        companions: list[bytes] = []
        for item in blob.items:
            kept: list[list[bytes]] = [[] for _ in item.stored[1:]]
            for source in item.sources:
                self._progress(self._done, self._total, item.name)
                if source.inverted:
                    yield _inverted(source, b"".join(self._copied(source)))
                elif item.kind is None:
                    yield from self._copied(source)
                else:
                    assert self._quantize is not None
                    codes, *others = self._quantize(item, b"".join(self._copied(source, source.size)))
                    yield codes
                    for parts, other in zip(kept, others, strict=True):
                        parts.append(other)
            companions += [b"".join(parts) for parts in kept]
        yield from companions

    def _copied(self, source: Source, at_once: int = COPY_BYTES) -> Iterator[bytes]:
        with source.file.path.open("rb") as file:
            file.seek(source.start)
            left = source.size
            while left:
                part = file.read(min(left, at_once))
                if not part:
                    raise OSError(f"{source.file.name} became shorter while it was read")
                left -= len(part)
                self._done += len(part)
                yield part


def _inverted(source: Source, data: bytes) -> bytes:
    numbers = [number for (number,) in struct.iter_unpack("<f", data)]
    if not all(math.isfinite(number) and number for number in numbers):
        raise BadModelFiles(f"{source.file.name}: a global scale is {numbers}, whose inverse is needed")
    return struct.pack(f"<{len(numbers)}f", *(1 / number for number in numbers))


def _descriptions(folder: Path) -> Iterator[tuple[dict[str, str], str]]:
    """A layer, yet without digest and size, and its text."""
    for path in sorted(folder.glob("*.json")):
        if path.name != INDEX:
            parse_object(text := read_text(path, path.name), path.name)
            yield {"mediaType": JSON, "name": path.name}, text


def _texts(folder: Path, template: str | None) -> Iterator[tuple[dict[str, str], str]]:
    if template is not None:
        yield {"mediaType": TEMPLATE}, template
    if licence := licence_file(folder):
        yield {"mediaType": LICENSE}, read_text(licence, licence.name)


def _host_config(config: dict[str, Any], generation: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What can be done with pictures or sound is not said, since this runner does nothing with them; whether there
    are tools and thinking, a host sees from the template."""
    family = str(config.get("model_type", "unknown"))
    return {
        "model_format": "safetensors",
        "model_family": family,
        "model_families": [family],
        "model_type": size_text(plan.parameters),
        "file_type": plan.file_type,
        "requires": "0.19.0" if plan.quantized else "0.14.0",
        "capabilities": ["completion"],
        "generation_defaults": dict(_generation_defaults(generation)),
    }


def _generation_defaults(generation: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    for option, (number, names) in GENERATION_DEFAULTS.items():
        values = (generation.get(name) for name in names)
        found = next((value for value in values if type(value) in (int, float)), None)
        if found is not None and math.isfinite(found):
            yield option, number(found)


def size_text(parameters: int) -> str:
    """A count of parameters as people write it: 5.5M, 1.2B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters)
