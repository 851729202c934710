"""CUDA kernels on a CPU: what MLX would compile for a GPU is compiled with a C++ compiler and run here.

Threads of the kernel take turns, block after block (`emulated.h`). That is slow, and says nothing about speed; but
indices, shuffles, tensor-core layouts, barriers and counters are those of the source.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from runner.kernels import compiled
from runner.kernels.program import C_TYPES, Program

HERE = Path(__file__).parent
COMPILER = shutil.which("c++") or shutil.which("g++")
FLAGS = ["-std=c++20", "-O1", "-fpermissive", "-w", "-fno-strict-aliasing", "-fPIC"]
FLAGS += ["-U_FORTIFY_SOURCE"]  # which some compilers define by themselves, and which forbids fibers
HELD_AS = {
    mx.bfloat16: np.uint16,
    mx.float16: np.float16,
    mx.float32: np.float32,
    mx.int32: np.int32,
    mx.uint32: np.uint32,
}
# An instruction in the source, by a word in it -> what does the same here.
INSTRUCTIONS = {
    "cp.async.cg": "std::memcpy(to, from, 16);",
    "cp.async.ca": "std::memcpy(to, from, BYTES);",
    "cp.async.": ";",
    "ld.acquire": "pause_fiber(); v = *(volatile const Count*)from;",
    "red.release": "*at += 1;",
    "st.release": "*(volatile Count*)to = v;",
    "st.relaxed": "*(uint4*)to = v;",
    "f32.bf16.bf16": "emulated_mma<__nv_bfloat16>(c, a0, a1, a2, a3, b0, b1);",
    "f32.f16.f16": "emulated_mma<__half>(c, a0, a1, a2, a3, b0, b1);",
    "prefetch": ";",
    "parts[i]": "parts[i] = ((const uint4*)from)[i];",
    ".v2.u32": "v = *(const uint2*)from;",
    ".global.u32": "v = *(const word*)from;",
    ".v4.u32": "v = *(const uint4*)from;",
    ".u8": "v = *(const unsigned char*)from;",
    ".u16": "v = *(const unsigned short*)from;",
}

Kernel = Callable[..., list[mx.array]]


def on_this_machine(
    kernels: Sequence[_lru_cache_wrapper[Any]],
    temporary: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Until the test is over. kernels: the functions that make kernels, and keep them."""
    folder = temporary.getbasetemp() / "kernels"
    folder.mkdir(exist_ok=True)
    for kernel in kernels:
        kernel.cache_clear()
    monkeypatch.setattr(compiled, "kernel", emulated(folder))
    yield
    for kernel in kernels:
        kernel.cache_clear()


def emulated(folder: Path) -> Callable[[Program], Kernel]:
    """What stands for `compiled.kernel`; compiled code goes into the folder."""

    def kernel(program: Program) -> Kernel:
        def run(
            inputs: Sequence[mx.array],
            grid: Sequence[int],
            threadgroup: Sequence[int],
            shapes: Sequence[Sequence[int]],
            numbers: Sequence[int] = (),
            shared: int = 0,
        ) -> list[mx.array]:
            for array, declared in zip(inputs, program.inputs, strict=True):
                assert declared.dtype in {array.dtype, mx.uint8}
            held = [_held(array) for array in inputs]
            made = [
                np.zeros(shape, HELD_AS[array.dtype])
                for shape, array in zip(shapes, program.outputs, strict=True)
            ]
            code = _code(program)
            library = _compiled(folder, f"{program.name}_{zlib.crc32(code.encode())}", code)
            blocks = [-(-size // threads) for size, threads in zip(grid, threadgroup, strict=True)]
            pointers = [array.ctypes.data for array in [*held, *made]]
            given = (ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_int * len(numbers))(*numbers)
            library.run(*blocks, threadgroup[0], shared, *given)
            for array, after in zip(inputs, held, strict=True):
                if not np.array_equal(after, _held(array)):  # a kernel may write to what it reads
                    array[...] = _array(after, array.dtype)
            return [_array(one, array.dtype) for one, array in zip(made, program.outputs, strict=True)]

        return run

    return kernel


def _held(array: mx.array) -> np.ndarray[Any, Any]:
    """A copy of its own."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _array(held: np.ndarray[Any, Any], dtype: mx.Dtype) -> mx.array:
    array = mx.array(held)
    return array.view(dtype) if dtype == mx.bfloat16 else array


def _code(program: Program) -> str:
    arrays = [*program.inputs, *program.outputs]
    types = [f"{C_TYPES[array.dtype]}*" for array in arrays]
    signature = [f"{kind} {array.name}" for kind, array in zip(types, arrays, strict=True)]
    arguments = [f"({kind})pointers[{number}]" for number, kind in enumerate(types)]
    signature += [f"int {name}" for name in program.numbers]
    arguments += [f"numbers[{number}]" for number in range(len(program.numbers))]
    body = program.body.replace(
        "extern __shared__ uint4 staged[]", "uint4* staged = own_block->memory.data()"
    )
    together = "true" if "all_blocks" in body else "false"
    return "\n".join(
        [
            '#include "emulated.h"',
            _without_instructions(program.header),
            f"static void kernel({', '.join(signature)}) {{ {_without_instructions(body)} }}",
            'extern "C"',
            "void run(int x, int y, int z, int threads, int shared, void** pointers, const int* numbers) {",
            f"  launch({{x, y, z}}, threads, shared, {together}, [=] {{ kernel({', '.join(arguments)}); }});",
            "}",
        ]
    )


def _without_instructions(source: str) -> str:
    def replaced(found: re.Match[str]) -> str:
        return next(ours for word, ours in INSTRUCTIONS.items() if word in found.group())

    return re.sub(r"asm volatile\(.*?\);", replaced, source, flags=re.DOTALL)


def _compiled(folder: Path, name: str, code: str) -> ctypes.CDLL:
    made = folder / f"{name}.so"
    if not made.exists():
        header = folder / "emulated.h.gch"  # reading it takes half of the time to compile a kernel
        if not header.exists():
            draft = header.with_name(f"{threading.get_ident()}.gch")  # others may look for it meanwhile
            _run_compiler("-x", "c++-header", str(HERE / "emulated.h"), "-o", str(draft))
            draft.replace(header)
        written = folder / f"{name}.cpp"
        written.write_text(code)
        _run_compiler("-shared", "-I", str(folder), "-I", str(HERE), str(written), "-o", str(made))
    return ctypes.CDLL(str(made))


def _run_compiler(*arguments: str) -> None:
    assert COMPILER is not None
    done = subprocess.run([COMPILER, *FLAGS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
