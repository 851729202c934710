"""From what a host or a person calls a model to its files.

Knows nothing about tensors or architectures.
"""

from __future__ import annotations

from pathlib import Path

from runner.errors import ModelNotFound
from runner.store.files import ModelFiles
from runner.store.hf_dir import open_directory

DEMO = "demo"
MAX_SHOWN = 200  # characters of a name in an error message
DEMO_FOLDER = Path(__file__).parent.parent / "demo"


def open_model(reference: str) -> ModelFiles:
    """`demo`, or the path of a Hugging Face directory.

    Raises ModelNotFound, or BadModelFiles for what is there but broken.
    """
    if reference in (DEMO, f"{DEMO}:latest"):
        return open_directory(DEMO_FOLDER, DEMO)
    folder = _directory(reference)
    if folder is None:
        raise ModelNotFound(
            f"model {reference[:MAX_SHOWN]!r} not found: "
            f"give the path of a Hugging Face model directory, or {DEMO!r}"
        )
    return open_directory(folder, folder.name)


def _directory(reference: str) -> Path | None:
    try:
        folder = Path(reference).expanduser().resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, an unknown home or a loop of links
        return None
