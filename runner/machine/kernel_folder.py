"""Where compiled kernels are kept, so that only the first start of a model on a machine waits for a compiler.

MLX keeps its own there, too. By default it takes a folder that anybody can guess and make before us; what lies
there is run on the GPU, so ours is private.

Knows nothing about kernels.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "MLX_PTX_CACHE_DIR"  # MLX's; read when it compiles for the first time
PRIVATE = 0o700


def prepare() -> Path:
    """The folder, which is there then; once, before MLX compiles anything. Whoever set the variable has chosen, and
    minds for themselves who else may write there.
    """
    chosen = os.environ.get(VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = Path(chosen) if chosen else cache / "mlx-runner" / "kernels" / version("mlx")
    try:
        path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if not chosen:
            _require_private(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.warning("Kernels are compiled at every start", extra={"folder": str(path), "error": str(error)})
        path = Path(tempfile.mkdtemp(prefix="mlx-runner-kernels-"))
    os.environ[VARIABLE] = str(path)
    return path


def _require_private(path: Path) -> None:
    """Raises PermissionError where somebody else could have put something."""
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} belongs to somebody else, or others may write there")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written to")
