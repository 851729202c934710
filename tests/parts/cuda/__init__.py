"""CUDA kernels on a CPU: what MLX would compile for a GPU is compiled with a C++ compiler and run here.

A thread of the kernel is a thread of the machine, block after block (`emulated.h`). That is slow, and says nothing
about speed; but indices, shuffles, tensor-core layouts, barriers and counters are those of the source.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

HERE = Path(__file__).parent
COMPILER = shutil.which("c++") or shutil.which("g++")
FLAGS = ["-std=c++20", "-O1", "-fpermissive", "-w", "-fno-strict-aliasing", "-shared", "-fPIC", "-pthread"]
C_TYPES = {mx.bfloat16: "__nv_bfloat16", mx.float32: "float", mx.int32: "int", mx.uint32: "unsigned"}
HELD_AS = {mx.bfloat16: np.uint16, mx.float32: np.float32, mx.int32: np.int32, mx.uint32: np.uint32}
# An instruction in the source, by a word in it -> what does the same here.
INSTRUCTIONS = {
    "mma.sync": "emulated_mma(c, a0, a1, a2, a3, b0, b1);",
    "prefetch": ";",
    "parts[i]": "parts[i] = ((const uint4*)from)[i];",
    ".v4.u32": "v = *(const uint4*)from;",
    ".u16": "v = *(const unsigned short*)from;",
}

Kernel = Callable[..., list[mx.array]]


def emulated(folder: Path) -> Callable[..., Kernel]:
    """What stands for `mx.fast.cuda_kernel`; compiled code goes into the folder."""

    def cuda_kernel(
        *, name: str, input_names: Sequence[str], output_names: Sequence[str], source: str, header: str = ""
    ) -> Kernel:
        def run(
            *,
            inputs: Sequence[mx.array],
            grid: Sequence[int],
            threadgroup: Sequence[int],
            output_shapes: Sequence[Sequence[int]],
            output_dtypes: Sequence[mx.Dtype],
        ) -> list[mx.array]:
            arrays = dict(zip(input_names, inputs, strict=True))
            held = [_held(array) for array in inputs]
            made = [
                np.zeros(shape, HELD_AS[dtype])
                for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
            ]
            outputs = dict(zip(output_names, output_dtypes, strict=True))
            code = _code(arrays, outputs, source, header)
            library = _compiled(folder, f"{name}_{abs(hash(code))}", code)
            blocks = [-(-size // threads) for size, threads in zip(grid, threadgroup, strict=True)]
            pointers = [array.ctypes.data for array in [*held, *made]]
            library.run(*blocks, threadgroup[0], (ctypes.c_void_p * len(pointers))(*pointers))
            for array, after in zip(inputs, held, strict=True):
                if not np.array_equal(after, _held(array)):  # a kernel may write to what it reads
                    array[...] = _array(after, array.dtype)
            return [_array(array, dtype) for array, dtype in zip(made, output_dtypes, strict=True)]

        return run

    return cuda_kernel


def _held(array: mx.array) -> np.ndarray[Any, Any]:
    """A copy of its own."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _array(held: np.ndarray[Any, Any], dtype: mx.Dtype) -> mx.array:
    array = mx.array(held)
    return array.view(dtype) if dtype == mx.bfloat16 else array


def _code(arrays: dict[str, mx.array], outputs: dict[str, mx.Dtype], source: str, header: str) -> str:
    shapes = [
        f"static const int {name}_shape[] = {{{', '.join(map(str, array.shape))}}};"
        for name, array in arrays.items()
        if f"{name}_shape" in source
    ]
    types = [f"const {C_TYPES[array.dtype]}*" for array in arrays.values()]
    types += [f"{C_TYPES[dtype]}*" for dtype in outputs.values()]
    signature = ", ".join(f"{kind} {name}" for kind, name in zip(types, [*arrays, *outputs], strict=True))
    arguments = ", ".join(f"({kind})pointers[{number}]" for number, kind in enumerate(types))
    return "\n".join(
        [
            '#include "emulated.h"',
            *shapes,
            _without_instructions(header.replace("#include <cuda_bf16.h>", "")),
            f"static void kernel({signature}) {{ {_without_instructions(source)} }}",
            'extern "C" void run(int x, int y, int z, int threads, void** pointers) {',
            f"  launch({{x, y, z}}, threads, [=] {{ kernel({arguments}); }});",
            "}",
        ]
    )


def _without_instructions(source: str) -> str:
    def replaced(found: re.Match[str]) -> str:
        return next(ours for word, ours in INSTRUCTIONS.items() if word in found.group())

    return re.sub(r"asm volatile\(.*?\);", replaced, source, flags=re.DOTALL)


def _compiled(folder: Path, name: str, code: str) -> ctypes.CDLL:
    assert COMPILER is not None
    made = folder / f"{name}.so"
    if not made.exists():
        written = folder / f"{name}.cpp"
        written.write_text(code)
        command = [COMPILER, *FLAGS, "-I", str(HERE), str(written), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]
    return ctypes.CDLL(str(made))
