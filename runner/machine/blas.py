"""A fast BLAS for MLX on Linux CPUs.

MLX's Linux wheel carries the reference BLAS: one thread, no vector code. A global symbol wins over it, so opening
another BLAS with RTLD_GLOBAL before the first `import mlx.core` replaces its matrix products. Intel's MKL, where
the environment has the package `mkl`, comes before the system's OpenBLAS: a float32 matrix times a vector took it
a third of the time. macOS has Accelerate and needs nothing.

Knows nothing about MLX: it must run before MLX is there.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

MKL = "MKL"
OPENBLAS = "OpenBLAS"
OPENBLAS_LIBRARY = "libopenblas.so.0"
WAIT_MS = "5"  # of MKL's threads behind a product
_opened: str | None = None


def open_blas(environment: Path = Path(sys.prefix)) -> None:
    """Open the fastest BLAS that is there, once; without any of them everything works, slowly."""
    global _opened
    if sys.platform != "linux" or _opened is not None:
        return
    if _open_mkl(environment / "lib"):
        _opened = MKL
    elif _open(OPENBLAS_LIBRARY):
        _opened = OPENBLAS


def blas_name() -> str | None:
    """The BLAS that was opened; None where MLX's own computes."""
    return _opened


def blas_is_slow() -> bool:
    """Whether matrix products on a Linux CPU run on the reference BLAS."""
    return sys.platform == "linux" and _opened is None


def _open_mkl(folder: Path) -> bool:
    """MKL ends the process if its first product finds no OpenMP, so OpenMP is opened first, or MKL is not.

    Its threads wait on their cores for the next product, which in a step comes within a millisecond: to be woken
    takes them a tenth of one, as long as many products do. Behind a step they leave; by themselves they would stay
    for 0.2 s, while other threads of this process and of the host want those cores.
    """
    found = sorted(folder.glob("libmkl_rt.so*"))
    if found:
        os.environ.setdefault("KMP_BLOCKTIME", WAIT_MS)
    return bool(found) and _open(str(folder / "libiomp5.so")) and _open(str(found[-1]))


def _open(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
