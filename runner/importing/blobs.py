"""The writing side of Ollama's store: blobs named by their bytes, and the manifest that comes last.

Whatever happens on the way leaves nothing but blobs that no manifest names, which hosts remove.

Knows nothing about tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.store.names import Name

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"


class Blobs:
    """The store's blobs folder."""

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


def write_manifest(root: Path, name: Name, config: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    """The last step of an import; replaces a model of the same name. config: as `Blobs.add` returns it."""
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
    temporary = folder / f".import-{secrets.token_hex(8)}"  # named first, so that Ctrl-C finds it at any time

    def settle(target: Path) -> None:
        file.flush()
        os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)

    try:
        with temporary.open("xb") as file:
            yield file, settle
    finally:
        temporary.unlink(missing_ok=True)
