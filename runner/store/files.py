"""What a model is made of on disk, whatever kind of store it came from.

Every reader here refuses what is not a regular file (opening a FIFO would block for ever) and names the file
in its error, never its folder: the message may travel to an HTTP client.

Knows nothing about tensors or architectures.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadModelFiles

MAX_JSON_BYTES = 256 * 1024 * 1024
MAX_OBJECT_CHARS = (
    32 * 1024 * 1024
)  # the parser holds the GIL; the index of 92 thousand tensors has 9 million


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A safetensors file, and what an error calls it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model's parts: parsed descriptions, and where its tensors lie.

    template: a chat template that is not in tokenizer_config. Neither it nor the licence has been looked into.
    """

    name: str
    config: dict[str, Any]
    tokenizer_json: str
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    weights: tuple[WeightFile, ...]
    template: Path | None = None
    licence: Path | None = None


def require_regular(path: Path, name: str) -> int:
    """The size in bytes of a regular file; BadModelFiles for anything else."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # MLX says "std::bad_cast"
        raise BadModelFiles(f"{name}: its path is not UTF-8, and MLX opens no such file") from None
    try:
        status = path.stat()
    except (OSError, ValueError):
        raise BadModelFiles(f"{name}: no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadModelFiles(f"{name}: not a regular file")
    return status.st_size


def read_text(path: Path, name: str) -> str:
    """A whole UTF-8 text file of a sane size."""
    size = require_regular(path, name)
    if size > MAX_JSON_BYTES:
        raise BadModelFiles(f"{name}: {size} bytes, limit {MAX_JSON_BYTES}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadModelFiles(f"{name}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise BadModelFiles(f"{name}: cannot be read: {error.strerror}") from None


def parse_object(text: str, name: str) -> dict[str, Any]:
    """A JSON object; anything else is BadModelFiles."""
    if len(text) > MAX_OBJECT_CHARS:
        raise BadModelFiles(f"{name}: {len(text)} characters, limit {MAX_OBJECT_CHARS}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadModelFiles(f"{name}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadModelFiles(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value
