"""A CUDA kernel as text: what it is given, and what it does with it.

Knows nothing about compilers.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

C_TYPES = {
    mx.bfloat16: "__nv_bfloat16",
    mx.float16: "__half",
    mx.float32: "float",
    mx.int32: "int",
    mx.uint32: "unsigned int",
    mx.uint8: "unsigned char",  # or any array, of which the kernel wants nothing but its place
}
# Two small files of CUDA's own. MLX puts its own headers before a kernel, and reading them takes nine tenths of the
# time to compile one.
BEFORE = """#include <cuda_bf16.h>
#include <cuda_fp16.h>
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
"""


class Array(NamedTuple):
    """A parameter: a pointer to an array's numbers."""

    name: str
    dtype: mx.Dtype


class Program(NamedTuple):
    """The kernel gets its inputs, then its outputs, then its numbers, which are integers. threads: of a block, for
    which the compiler must leave registers; 0 where they are few enough.
    """

    name: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    body: str
    header: str = ""
    numbers: tuple[str, ...] = ()
    threads: int = 0

    def text(self, function: str) -> str:
        """All of what a compiler is given. function: what the kernel is called there."""
        parameters = [f"const {C_TYPES[array.dtype]}* {array.name}" for array in self.inputs]
        parameters += [f"{C_TYPES[array.dtype]}* {array.name}" for array in self.outputs]
        parameters += [f"int {name}" for name in self.numbers]
        bounds = f"__launch_bounds__({self.threads}, 1) " if self.threads else ""
        signature = f'extern "C" __global__ void {bounds}{function}({", ".join(parameters)})'
        return f"{BEFORE}{self.header}\n{signature} {{\n{self.body}\n}}\n"
