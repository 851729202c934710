"""A Hugging Face model directory: config.json, tokenizer.json, safetensors, sharded or not.

Knows nothing about tensors or architectures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.errors import BadModelFiles
from runner.store.files import ModelFiles, WeightFile, parse_object, read_text, require_regular

INDEX = "model.safetensors.index.json"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
JINJA = "chat_template.jinja"


def open_directory(folder: Path, name: str) -> ModelFiles:
    """Read the descriptions and list the weight files.

    Raises BadModelFiles for what is missing or broken in it.
    """
    return ModelFiles(
        name=name,
        config=_required(folder, "config.json"),
        tokenizer_json=read_text(folder / "tokenizer.json", "tokenizer.json"),
        tokenizer_config=_optional(folder, "tokenizer_config.json"),
        generation_config=_optional(folder, "generation_config.json"),
        weights=_weights(folder),
        template=folder / JINJA if (folder / JINJA).is_file() else None,
        licence=licence_file(folder),
    )


def licence_file(folder: Path) -> Path | None:
    """The licence's text, under one of its usual names."""
    return next((folder / name for name in LICENCES if (folder / name).is_file()), None)


def _required(folder: Path, name: str) -> dict[str, Any]:
    return parse_object(read_text(folder / name, name), name)


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return _required(folder, name) if (folder / name).exists() else {}


def _weights(folder: Path) -> tuple[WeightFile, ...]:
    names = (
        _indexed(folder)
        if (folder / INDEX).exists()
        else sorted(p.name for p in folder.glob("*.safetensors"))
    )
    if not names:
        raise BadModelFiles("no *.safetensors file in the model directory")
    for name in names:
        require_regular(folder / name, name)
    return tuple(WeightFile(folder / name, name) for name in names)


def _indexed(folder: Path) -> list[str]:
    weight_map = _required(folder, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise BadModelFiles(f"{INDEX}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BadModelFiles(f"{INDEX}: {name!r} is not the name of a safetensors file in the directory")
    return names
