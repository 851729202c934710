"""A product on tensor cores, for each type of numbers: mma m16n8k16, whose sums are float32.

Shapes: of A [16,16], B [16,8] and what is found [16,8], lane (g,t) of a warp, g = lane/4 and t = lane%4, has
    a0 (g,2t)    a1 (g+8,2t)    a2 (g,2t+8)    a3 (g+8,2t+8)    each with the next column
    b0 (2t,g)    b1 (2t+8,g)                                    each with the next row
    c[0] (g,2t)  c[1] (g,2t+1)  c[2] (g+8,2t)  c[3] (g+8,2t+1)
"""

from __future__ import annotations

from string import Template

import mlx.core as mx

TEXT = Template(r"""
namespace tensor_cores {
typedef unsigned int word;
__device__ inline $pair pair(word bits) { return *($pair*)&bits; }
__device__ inline float2 floats(word v) { return $floats(pair(v)); }
__device__ inline word rounded(float a, float b) {
  const $pair both = $rounded(a, b);
  return *(word*)&both;
}
__device__ inline void multiply(float (&c)[4], word a0, word a1, word a2, word a3, word b0, word b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.$type.$type.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
}
""")
TENSOR_CORES = {
    mx.bfloat16: TEXT.substitute(
        type="bf16", pair="__nv_bfloat162", floats="__bfloat1622float2", rounded="__floats2bfloat162_rn"
    ),
    mx.float16: TEXT.substitute(
        type="f16", pair="__half2", floats="__half22float2", rounded="__floats2half2_rn"
    ),
}
