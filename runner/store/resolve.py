"""From what a host or a person calls a model to its files.

Knows nothing about tensors or architectures.
"""

from __future__ import annotations

from pathlib import Path

from runner.errors import ModelNotFound
from runner.store import names, ollama
from runner.store.files import ModelFiles
from runner.store.hf_dir import open_directory

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "demo"
DEFAULT_STORE = Path("~/.ollama/models")  # as people write it; whoever knows the user expands it
MAX_SHOWN = 200  # characters of a name in an error message
MAX_REFERENCE = 4096  # characters; Linux opens no longer path
PATHS_BEGIN_WITH = ("/", ".", "~")


def open_model(reference: str, store: Path = DEFAULT_STORE) -> ModelFiles:
    """A name in the store, the path of a Hugging Face directory, or `demo`; looked up in this order.

    Raises ModelNotFound, or another LoadError for what is there but broken.
    """
    if len(reference) > MAX_REFERENCE:
        raise ModelNotFound(f"a model's name of {len(reference)} characters, limit {MAX_REFERENCE}")
    name = None if reference.startswith(PATHS_BEGIN_WITH) else names.parse(reference)
    if name is not None and (manifest := ollama.find(store, name)):
        return ollama.open_manifest(store, name, manifest)
    if folder := _directory(reference):
        return open_directory(folder, folder.name)
    if name == names.parse(DEMO):
        return open_directory(DEMO_FOLDER, DEMO)
    raise ModelNotFound(
        f"model {reference[:MAX_SHOWN]!r} not found: it is no name in the model store, "
        f"no path of a Hugging Face directory, and not {DEMO!r}"
    )


def _directory(reference: str) -> Path | None:
    try:
        folder = Path(reference).expanduser().resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, an unknown home or a loop of links
        return None
