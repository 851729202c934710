"""Ollama's model store: manifests by name, blobs by digest.

    manifests/HOST/NAMESPACE/MODEL/TAG   JSON: a config and layers, each with mediaType, digest, size
    blobs/sha256-HEX                     a layer's bytes

Of the layers we read config.json and its companions, and the tensors: one whole safetensors file each, or one
for several tensors. A manifest is somebody else's word, so names, digests and sizes are checked before any path
is opened, and no blob may lie outside of the store.

Knows nothing about arrays or architectures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadModelFiles, UnsupportedModel
from runner.store.files import ModelFiles, WeightFile, parse_object, read_text, require_regular
from runner.store.names import Name

TENSOR = "application/vnd.ollama.image.tensor"
JSON = "application/vnd.ollama.image.json"
TEMPLATE = "application/vnd.ollama.image.template"
LICENSE = "application/vnd.ollama.image.license"
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Layer:
    """One entry of a manifest, checked: `path` is a regular file of the right size in the store."""

    media_type: str
    name: str
    digest: str
    path: Path


def find(root: Path, name: Name) -> Path | None:
    """The manifest of a name, None if the store has none or is not ours to read."""
    manifest = root / "manifests" / name.path
    try:
        return manifest if manifest.is_file() else None
    except OSError:
        return None


def open_manifest(root: Path, name: Name, manifest: Path) -> ModelFiles:
    """Raises BadModelFiles for what is missing or broken, UnsupportedModel for a model without tensor layers."""
    parsed = parse_object(read_text(manifest, f"manifest of {name}"), f"manifest of {name}")
    layers = list(_layers(root, parsed))
    tensors = {layer.digest: layer for layer in layers if layer.media_type == TENSOR}
    if not tensors:
        raise UnsupportedModel(
            f"model {name} has no safetensors layers; this runner cannot load other formats"
        )
    files = {layer.name: layer for layer in layers if layer.media_type == JSON}
    return ModelFiles(
        name=str(name),
        config=_object(files, "config.json", required=True),
        tokenizer_json=read_text(_required(files, "tokenizer.json").path, "tokenizer.json"),
        tokenizer_config=_object(files, "tokenizer_config.json"),
        generation_config=_object(files, "generation_config.json"),
        weights=tuple(WeightFile(layer.path, f"layer {layer.name}") for layer in tensors.values()),
        template=_text(root, parsed, TEMPLATE),
        licence=_text(root, parsed, LICENSE),
    )


def blob_path(root: Path, digest: object) -> Path | None:
    """Where a digest's bytes lie; None if it is no digest, or a link that leads elsewhere."""
    match = DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        return None
    path = root / "blobs" / f"sha256-{match[1]}"
    # Not Path.resolve, which raises on a link to itself.
    leads_to = Path(os.path.realpath(path))
    return path if leads_to.parent == Path(os.path.realpath(root / "blobs")) else None


def _layers(root: Path, manifest: dict[str, Any]) -> Iterator[Layer]:
    entries = manifest.get("layers")
    if not isinstance(entries, list):
        raise BadModelFiles("manifest: layers must be a list")
    for entry in entries:
        if not isinstance(entry, dict):
            raise BadModelFiles("manifest: a layer must be an object")
        if entry.get("mediaType") in (TENSOR, JSON):
            yield _checked(root, entry)


def _checked(root: Path, entry: dict[str, Any]) -> Layer:
    media_type, name, digest, size = (entry.get(key) for key in ("mediaType", "name", "digest", "size"))
    if not isinstance(name, str) or not name:
        raise BadModelFiles("manifest: a layer has no name")
    path = blob_path(root, digest)
    if path is None:
        raise BadModelFiles(f"layer {name}: invalid digest {str(digest)[:MAX_SHOWN]!r}")
    found = require_regular(path, f"layer {name}")
    if found != size:
        raise BadModelFiles(f"layer {name}: {found} bytes, the manifest says {size!r}: is it all there?")
    return Layer(str(media_type), name, str(digest), path)


def _text(root: Path, manifest: dict[str, Any], media_type: str) -> Path | None:
    """Where the first layer of a kind lies, for which a model need not be refused if it is broken."""
    for entry in manifest["layers"]:
        if entry.get("mediaType") == media_type:
            return blob_path(root, entry.get("digest"))
    return None


def _required(files: dict[str, Layer], name: str) -> Layer:
    if name not in files:
        raise BadModelFiles(f"manifest: no layer {name}")
    return files[name]


def _object(files: dict[str, Layer], name: str, required: bool = False) -> dict[str, Any]:
    if name not in files and not required:
        return {}
    return parse_object(read_text(_required(files, name).path, name), name)
