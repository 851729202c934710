"""NVIDIA's run-time compiler, which MLX has loaded: source text becomes machine code for one architecture.

Called by `ctypes`, which lets other threads go on meanwhile, so that several kernels can be compiled at once.

Knows nothing about kernels' parameters or where code is kept.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mlx

LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12")
OF_ITS_OWN_KIND = 90  # from this architecture on the code for one is for no other, and may use all it has


class CompilerMissing(Exception):
    """The library or CUDA's headers are not there."""


class CompilerError(Exception):
    """The compiler refused the source, with these words."""


def compiled(source: str, capability: int) -> bytes:
    """Machine code (cubin). capability: 90 for sm_90. Raises CompilerMissing or CompilerError."""
    library = _library()
    program = ctypes.c_void_p()
    text = source.encode()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernel.cu", 0, None, None))
    try:
        options = [option.encode() for option in _options(capability)]
        array = (ctypes.c_char_p * len(options))(*options)
        if library.nvrtcCompileProgram(program, len(options), array):
            raise CompilerError(
                _fetched(library, program, "ProgramLog").decode(errors="replace").strip("\0 \n")
            )
        return _fetched(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def release() -> str:
    """Of the compiler, as 13.0. Raises CompilerMissing."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library = _library()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def _options(capability: int) -> list[str]:
    own = "a" if capability >= OF_ITS_OWN_KIND else ""
    return [
        f"--gpu-architecture=sm_{capability}{own}",
        "--device-as-default-execution-space",  # a generic lambda is a host's function otherwise
        *(f"--include-path={path}" for path in _headers()),
    ]


def _fetched(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    found = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, found))
    return found.raw


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompilerError(library.nvrtcGetErrorString(status).decode())


@cache
def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)  # by its name: the one that MLX has loaded
        except OSError:
            continue
    raise CompilerMissing(f"none of {', '.join(LIBRARIES)} can be loaded")


@cache
def _headers() -> tuple[Path, ...]:
    """The folders with CUDA's headers: where MLX looks for them, too."""
    found = tuple(path for path in _may_be_headers() if path.is_dir())
    if not any((path / "cuda_bf16.h").exists() for path in found):
        raise CompilerMissing("cuda_bf16.h is in none of MLX's, NVIDIA's Python packages and CUDA_HOME")
    return found


def _may_be_headers() -> Iterator[Path]:
    for root in map(Path, mlx.__path__):
        packages = root.parent / "nvidia"
        for path in (root, packages / "cu13", packages / "cuda_runtime"):
            yield path / "include"
            yield path / "include" / "cccl"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    yield Path(home) / "include"
