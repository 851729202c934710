"""Writing a float Hugging Face directory into an Ollama store, as the host's own import does.

Every tensor becomes a blob of its own, a safetensors file with one entry; every JSON file becomes a blob; then
comes the config that a host shows and chooses the runner by; the manifest is last, so a failure or Ctrl-C on the
way leaves nothing but blobs that no manifest names, which hosts remove. Bytes are copied, never converted.

Knows nothing about arrays or architectures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import UnsupportedModel
from runner.store.files import WeightFile, parse_object, read_text
from runner.store.hf_dir import INDEX, open_directory
from runner.store.names import Name
from runner.store.ollama import JSON, TENSOR
from runner.store.safetensors_header import Tensor, read_tensors

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
TEMPLATE = "application/vnd.ollama.image.template"
LICENSE = "application/vnd.ollama.image.license"
FLOATS = frozenset({"F32", "F16", "BF16"})
COPY_BYTES = 8 * 1024 * 1024
# What generation_config.json and a host's options share.
GENERATION_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")

Progress = Callable[[int, int], None]
"""Called with the tensors written and their number."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What an import wrote."""

    name: Name
    tensors: int
    parameters: int
    weight_bytes: int
    dtype: str


class Blobs:
    """The store's blobs folder; a blob that is there already is not written again."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "blobs"
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, parts: Iterable[bytes]) -> dict[str, Any]:
        """Write one blob; returns its digest and size as a manifest has them."""
        digest, size = hashlib.sha256(), 0
        with _replacing(self._folder) as (file, settle):
            for part in parts:
                digest.update(part)
                size += len(part)
                file.write(part)
            settle(self._folder / f"sha256-{digest.hexdigest()}")
        return {"digest": f"sha256:{digest.hexdigest()}", "size": size}


def import_directory(
    folder: Path, name: Name, root: Path, template: str | None, progress: Progress
) -> Summary:
    """Write the model and its manifest; replaces a model of the same name.

    template: a chat template in Go's language, which hosts need to chat with it. Raises BadModelFiles or
    UnsupportedModel before anything is written that a host would see.
    """
    files = open_directory(folder, folder.name)
    tensors = [(file, tensor) for file in files.weights for tensor in read_tensors(file.path, file.name)]
    for _, tensor in tensors:
        if tensor.dtype not in FLOATS:
            raise UnsupportedModel(
                f"tensor {tensor.name} is {tensor.dtype}; only float models can be imported"
            )
    blobs = Blobs(root)
    layers = []
    for done, (file, tensor) in enumerate(tensors):
        progress(done, len(tensors))
        layers.append({"mediaType": TENSOR, **blobs.add(_safetensors(file, tensor)), "name": tensor.name})
    progress(len(tensors), len(tensors))
    for path in sorted(folder.glob("*.json")):
        if path.name != INDEX:
            parse_object(text := read_text(path, path.name), path.name)
            layers.append({"mediaType": JSON, **blobs.add([text.encode()]), "name": path.name})
    layers += [{"mediaType": kind, **blobs.add([text.encode()])} for kind, text in _texts(folder, template)]
    summary = _summary(name, [tensor for _, tensor in tensors])
    config = _host_config(files.config, files.generation_config, summary)
    _write_manifest(root, name, blobs.add([json.dumps(config).encode()]), layers)
    return summary


def _safetensors(file: WeightFile, tensor: Tensor) -> Iterator[bytes]:
    """The bytes of a safetensors file with this tensor alone; the header is padded to a multiple of eight."""
    entry = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [0, tensor.size]}
    header = json.dumps({tensor.name: entry}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    with file.path.open("rb") as source:
        source.seek(tensor.start)
        left = tensor.size
        while left:
            part = source.read(min(left, COPY_BYTES))
            if not part:
                raise OSError(f"{file.name} became shorter while it was read")
            left -= len(part)
            yield part


def _texts(folder: Path, template: str | None) -> Iterator[tuple[str, str]]:
    if template is not None:
        yield TEMPLATE, template
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            yield LICENSE, read_text(folder / name, name)
            return


def _summary(name: Name, tensors: list[Tensor]) -> Summary:
    bytes_by_dtype: dict[str, int] = {}
    for tensor in tensors:
        bytes_by_dtype[tensor.dtype] = bytes_by_dtype.get(tensor.dtype, 0) + tensor.size
    dtype = max(bytes_by_dtype, key=lambda kind: bytes_by_dtype[kind])
    parameters = sum(tensor.count for tensor in tensors)
    return Summary(name, len(tensors), parameters, sum(bytes_by_dtype.values()), dtype)


def _host_config(config: dict[str, Any], generation: dict[str, Any], summary: Summary) -> dict[str, Any]:
    family = str(config.get("model_type", "unknown"))
    return {
        "model_format": "safetensors",
        "model_family": family,
        "model_families": [family],
        "model_type": size_text(summary.parameters),
        "file_type": summary.dtype.lower(),
        "requires": "0.14.0",
        "capabilities": ["completion"],
        "generation_defaults": {key: generation[key] for key in GENERATION_DEFAULTS if key in generation},
    }


def size_text(parameters: int) -> str:
    """A count of parameters as people write it: 5.5M, 1.2B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters)


def _write_manifest(root: Path, name: Name, config: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, **config},
        "layers": layers,
    }
    target = root / "manifests" / name.path
    target.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file lies beside the manifests, not among them: a host lists whatever it finds there.
    with _replacing(root) as (file, settle):
        file.write(json.dumps(manifest).encode())
        settle(target)


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[tuple[Any, Callable[[Path], None]]]:
    """A temporary file and the function that gives it its name; it is gone if that is never called."""
    descriptor, temporary = tempfile.mkstemp(prefix=".import-", dir=folder)

    def settle(target: Path) -> None:
        file.flush()
        os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)

    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, settle
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
