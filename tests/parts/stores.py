"""Model stores: filled by our import or laid down by hand as hosts do it, and looked into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from runner.importing.importer import Summary, import_directory
from runner.importing.quantizing import quantize
from runner.quantization.settings import Quantization
from runner.store import names
from runner.store.names import Name
from tests.parts.checkpoints import Tensors

TENSOR, JSON = "application/vnd.ollama.image.tensor", "application/vnd.ollama.image.json"
TYPES = {"affine": "int{bits}", "mxfp4": "MXFP4", "mxfp8": "mxfp8", "nvfp4": "NVFP4"}

Metadata = Callable[[str, Quantization], dict[str, str]]


# Filled by our import.


def model_name(text: str) -> Name:
    """A valid name of a model."""
    parsed = names.parse(text)
    assert parsed is not None
    return parsed


def quiet(done: int, total: int, tensor: str) -> None:
    """No progress is shown."""


def bring_in(folder: Path, store: Path, kind: str | None = None, template: str | None = None) -> Summary:
    """Import a directory as `tiny`."""
    return import_directory(folder, model_name("tiny"), store, template, quiet, kind=kind, quantize=quantize)


# Looked into.


def manifest_path(store: Path, model: str = "tiny") -> Path:
    return store / "manifests" / model_name(model).path


def manifest(store: Path, model: str = "tiny") -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(manifest_path(store, model).read_text())
    return parsed


def blob(store: Path, layer: dict[str, Any]) -> Path:
    """The file of an entry in a manifest."""
    path: Path = store / "blobs" / layer["digest"].replace(":", "-")
    return path


def layers(store: Path) -> dict[str, Path]:
    """Layer name -> blob."""
    return {layer["name"]: blob(store, layer) for layer in manifest(store)["layers"] if "name" in layer}


def host_config(store: Path) -> dict[str, Any]:
    """What a host reads of the model before it starts a runner."""
    config: dict[str, Any] = json.loads(blob(store, manifest(store)["config"]).read_text())
    return config


# Laid down by hand.


def add_blob(store: Path, media_type: str, name: str, data: bytes) -> dict[str, Any]:
    """The manifest's entry for it."""
    digest = hashlib.sha256(data).hexdigest()
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    (store / f"blobs/sha256-{digest}").write_bytes(data)
    return {"mediaType": media_type, "name": name, "digest": f"sha256:{digest}", "size": len(data)}


def add_tensors(store: Path, name: str, tensors: Tensors, metadata: dict[str, str]) -> dict[str, Any]:
    """One blob with all of them."""
    scratch = store / "scratch.safetensors"
    store.mkdir(exist_ok=True)
    mx.save_safetensors(str(scratch), tensors, metadata=metadata)
    return add_blob(store, TENSOR, name, scratch.read_bytes())


def write_manifest(store: Path, folder: Path, tensor_layers: list[dict[str, Any]]) -> Path:
    """These layers behind the descriptions of a directory, as `tiny`."""
    described = [add_blob(store, JSON, path.name, path.read_bytes()) for path in folder.glob("*.json")]
    manifest_path(store).parent.mkdir(parents=True)
    text = json.dumps({"schemaVersion": 2, "layers": described + tensor_layers})
    manifest_path(store).write_text(text)
    return store


def whole_blob(path: str, how: Quantization) -> dict[str, str]:
    """Metadata that speak of a blob."""
    return {"quant_type": TYPES[how.mode].format(bits=how.bits), "group_size": str(how.group_size)}


def each_tensor(path: str, how: Quantization) -> dict[str, str]:
    """Metadata that speak of a tensor, which the blob's own do not overrule."""
    own = {f"{path}.weight.{key}": value for key, value in whole_blob(path, how).items()}
    return own | {"quant_type": "int2", "group_size": "16"}
