"""CUDA kernels that are compiled ahead, several at once, and kept on the disk.

MLX compiles a kernel given as text when it first runs, one after the other, two seconds each, and again in every
process. And for each operation it makes that text anew and hashes it, a third of the time that dispatching the
operation takes. A kernel given as machine code is not compiled, but hashed all the same. So MLX is given a name and
no code at all: it looks into its folder of compiled modules first, and there the code is, under the name that a
module of no code has. Where a version of MLX looks elsewhere, `works` finds out, and every operation carries its
code.

Knows nothing about what kernels do.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import nvrtc
from runner.kernels.program import Array, Program
from runner.machine import kernel_folder

log = logging.getLogger(__name__)

OLDEST = 80  # sm_80: bfloat16 in tensor cores
NO_CODE = "553e93901e462a6e"  # C++'s hash of an empty string, with which MLX ends a module's name
AT_ONCE = 8  # threads that compile


class Code(NamedTuple):
    """A kernel's name, and its machine code where MLX does not find that by the name."""

    name: str
    cubin: bytes


class Kernel:
    """A kernel that is being compiled, or was."""

    def __init__(self, program: Program, code: Future[Code]) -> None:
        self._future = code
        self._code: Code | None = None
        self._dtypes = [array.dtype for array in program.outputs]

    def __call__(
        self,
        inputs: Sequence[mx.array],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        shapes: Sequence[Sequence[int]],
        numbers: Sequence[int] = (),
        shared: int = 0,
    ) -> list[mx.array]:
        """The outputs. grid: in threads. shared: bytes that each block gets. Raises CompilerMissing or
        CompilerError.
        """
        code = self._code
        if code is None:
            self._code = code = self._future.result()
        return mx.fast.precompiled_cuda_kernel(
            name=code.name,
            compiled_source=code.cubin,
            inputs=inputs,
            output_shapes=shapes,  # type: ignore[arg-type]  # the stub wants tuples
            output_dtypes=self._dtypes,
            scalars=numbers,
            grid=grid,
            threadgroup=threadgroup,
            shared_memory=shared,
            ensure_row_contiguous=True,
        )


def kernel(program: Program) -> Kernel:
    """Begin to compile it; whoever calls it first waits."""
    return Kernel(program, _compilers().submit(_code, program, is_by_name=_is_by_name()))


def works() -> bool:
    """Whether kernels can be compiled and run here, and nobody said that they are wrong. On the MLX thread."""
    return _trusted and _compile()


def distrust() -> None:
    """Kernels of ours were seen to be wrong on this device: no more of them in this process."""
    global _trusted  # one device, and one answer
    _trusted = False


_trusted = True


@cache
def _compile() -> bool:
    if capability() < OLDEST:
        log.info("A GPU without our kernels", extra={"capability": capability(), "needed": OLDEST})
        return False
    try:
        return _is_by_name() or _runs(is_by_name=False)
    except (nvrtc.CompilerMissing, nvrtc.CompilerError) as error:
        log.warning("Decoding is slower: kernels cannot be compiled", extra={"error": str(error)})
        return False


@cache
def capability() -> int:
    """The GPU's, as 90 for sm_90; 0 for a device that is none of NVIDIA's."""
    kind, _, number = str(mx.device_info()["architecture"]).partition("sm_")
    return int(number) if number and not kind else 0


@cache
def _is_by_name() -> bool:
    """Whether MLX finds code in its folder. Raises CompilerMissing or CompilerError."""
    return _runs(is_by_name=True)


def _runs(*, is_by_name: bool) -> bool:
    program = Program(
        "probe", (), (Array("out", mx.int32),), "out[threadIdx.x] = number;", numbers=("number",)
    )
    code: Future[Code] = Future()
    code.set_result(_code(program, is_by_name=is_by_name))
    try:
        found = Kernel(program, code)([], (4, 1, 1), (4, 1, 1), [(4,)], (7,))[0]
        return bool(found.tolist() == [7] * 4)
    except RuntimeError as error:  # MLX's
        log.warning("A kernel did not run", extra={"is_by_name": is_by_name, "error": str(error)})
        return False


@cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1), thread_name_prefix="compiler")


def _code(program: Program, *, is_by_name: bool) -> Code:
    """Compiled now, or by an earlier process."""
    about = f"{nvrtc.release()} {capability()} {program.text('')}"
    name = f"{program.name}_{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    path = _folder() / f"{name}_{NO_CODE}.ptx"
    if not path.exists():
        _keep(path, name, nvrtc.compiled(program.text(name), capability()))
    return Code(name, b"" if is_by_name else path.read_bytes())


def _keep(path: Path, name: str, cubin: bytes) -> None:
    """The code, and beside it what the kernel is called in there."""
    for final, content in ((path.with_suffix(".txt"), f"{name}\t{name}\n".encode()), (path, cubin)):
        draft = final.with_name(f"{final.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(final)


@cache
def _folder() -> Path:
    return kernel_folder.prepare()
