"""A real BLAS for MLX on Linux CPUs.

MLX's Linux wheel carries the reference BLAS: one thread, no vector code. A global symbol wins over it, so
opening OpenBLAS with RTLD_GLOBAL before the first `import mlx.core` replaces its matrix products; a float32
512x2048 by 2048x8192 product was 190 times faster. macOS has Accelerate and needs nothing.

Knows nothing about MLX: it must run before MLX is there.
"""

from __future__ import annotations

import ctypes
import sys

LIBRARY = "libopenblas.so.0"
_opened: ctypes.CDLL | None = None


def open_blas() -> None:
    """Open OpenBLAS where that helps; without it everything works, slowly."""
    global _opened
    if sys.platform != "linux" or _opened is not None:
        return
    try:
        _opened = ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _opened = None


def blas_is_slow() -> bool:
    """Whether matrix products on a Linux CPU run on the reference BLAS."""
    return sys.platform == "linux" and _opened is None
