"""The types of numbers that `product_cuda.py` computes in: where its sources differ in bfloat16 and in float16.

A code behind the bits of 128 is the bfloat16 128 + code, behind those of 1024 the float16 1024 + code. Codes that
are multiplied as they are (`GROUPED` in `product_source.py`) stand alone in float16: multiples of its smallest
number, 2^-24, with which float32 can count. With that of bfloat16 it cannot.

The bits of e2m1 and e4m3, put where those of a larger type are, make a number that is too small by a power of two:
the smallest ones too, which have no leading one in either.

Shapes: see `product.py`.
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.tensor_cores import TENSOR_CORES

BFLOAT16 = r"""
namespace few_rows {
using namespace tensor_cores;
typedef __nv_bfloat16 Number;

__device__ inline float number(word both, int which) {
  return __uint_as_float(which ? both & 0xffff0000u : both << 16);
}
constexpr word ONES = 0x3f803f80u;
constexpr word ABOVE = 0x43004300u;        // of a code: 128
constexpr word AS_IT_IS = ABOVE;           // of one that is multiplied as it is: that has
constexpr float LESS = 128.f, UNIT = 1.f;  // so much too much, and counts such units
constexpr float SHRUNK = 1.f;              // what the weights of a norm were divided by
constexpr word E2M1 = 0x01c001c0u, E2M1_TIMES = 0x7e807e80u;  // 2^126
constexpr word E4M3 = 0x07f007f0u, E4M3_TIMES = 0x7b807b80u;  // 2^120
constexpr int E2M1_AT = 6, E4M3_AT = 4;
__device__ inline word e8m0(word code) { return max(code << 7, 0x40u) * 0x10001u; }
}
"""

FLOAT16 = r"""
namespace few_rows {
using namespace tensor_cores;
typedef __half Number;

__device__ inline float number(word both, int which) { return which ? floats(both).y : floats(both).x; }
constexpr word ONES = 0x3c003c00u;
constexpr word ABOVE = 0x64006400u;  // 1024
constexpr word AS_IT_IS = 0;
constexpr float LESS = 0.f, UNIT = 16777216.f;
constexpr float SHRUNK = 16.f;
constexpr word E2M1 = 0x0e000e00u, E2M1_TIMES = 0x74007400u;  // 2^14
constexpr word E4M3 = 0x3f803f80u, E4M3_TIMES = 0x5c005c00u;  // 2^8
constexpr int E2M1_AT = 9, E4M3_AT = 7;
__device__ inline word e8m0(word code) {
  const float scale = __uint_as_float(max(code << 23, 0x400000u));
  return rounded(scale, scale);
}
}
"""

NUMBERS = {
    mx.bfloat16: TENSOR_CORES[mx.bfloat16] + BFLOAT16,
    mx.float16: TENSOR_CORES[mx.float16] + FLOAT16,
}
SHRUNK = {mx.bfloat16: 1, mx.float16: 16}
"""What a norm's weights are divided by. They are multiplied with an input before its norm is known, and in float16
a large one times a large one would be infinite."""
