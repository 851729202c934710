"""From what a host or a person calls a model to its files.

Knows nothing about tensors or architectures.
"""

from __future__ import annotations

from pathlib import Path

from runner.errors import ModelNotFound
from runner.store.files import ModelFiles
from runner.store.hf_dir import open_directory

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "demo"


def open_model(reference: str) -> ModelFiles:
    """`demo`, or the path of a Hugging Face directory.

    Raises ModelNotFound, or BadModelFiles for what is there but broken.
    """
    if reference in (DEMO, f"{DEMO}:latest"):
        return open_directory(DEMO_FOLDER, DEMO)
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        raise ModelNotFound(
            f"model {reference!r} not found: give the path of a Hugging Face model directory, or {DEMO!r}"
        )
    return open_directory(folder, folder.resolve().name)
