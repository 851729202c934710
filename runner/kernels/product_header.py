"""The functions that the sources of `product_cuda.py` use, behind those of a type of numbers
(`product_numbers.py`).

Shapes: see `product.py`.
"""

from __future__ import annotations

HEADER = r"""
namespace few_rows {
template <typename Two> __device__ inline word bits(Two pair) { return *(word*)&pair; }
__device__ inline word times(word a, word b) { return bits(__hmul2(pair(a), pair(b))); }
__device__ inline word times_1_and(word a, word b) { return bits(__hfma2(pair(a), pair(b), pair(a))); }

// Relaxed, since the compiler moves plain loads down to where they are used, and then few are under way at once.
__device__ inline uint4 read_weight(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}
__device__ inline uint2 read_half(const void* from) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.L2::256B.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
// One of several that are next to one another: the first brings the others near.
__device__ inline uint2 read_part(const void* from) {
  uint2 v;
  asm volatile("ld.relaxed.cta.global.L2::256B.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
__device__ inline word read_word(const void* from) {
  word v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}
__device__ inline uint4 read_eight(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}
__device__ inline word read_twice(const void* from) {
  unsigned short v;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(v) : "l"(from));
  return v * 0x10001u;
}
__device__ inline word read_byte(const void* from) {
  unsigned short v;
  asm volatile("ld.relaxed.gpu.global.u8 %0, [%1];" : "=h"(v) : "l"(from));
  return v;
}
__device__ inline float squares(word v) {
  const float2 both = floats(v);
  return both.x * both.x + both.y * both.y;
}

// A pair of codes behind ABOVE becomes code * scale + bias.
__device__ inline word affine(word above, word scale, word bias) {
  return bits(__hfma2(__hsub2(pair(above), pair(ABOVE)), pair(scale), pair(bias)));
}
// Of codes that follow one another without gaps, number i and the next one, behind ABOVE.
template <int BITS> __device__ inline word neighbours(const word* v, int i) {
  auto code = [&](int i, int to) {
    const int at = i * BITS / 32, from = i * BITS % 32, right = from - to;
    const word found = from + BITS > 32 ? __funnelshift_r(v[at], v[at + 1], right)
                       : right > 0 ? v[at] >> right : v[at] << -right;
    return found & (((1u << BITS) - 1) << to);
  };
  return code(i, 0) | code(i + 1, 16) | ABOVE;
}
__device__ inline word moved(word v, int left) { return left < 0 ? v >> -left : v << left; }
// Nibbles i and i + 4.
__device__ inline word e2m1(word codes, int i) {
  const word small = (moved(codes, E2M1_AT - 4 * i) & E2M1) | (moved(codes, 12 - 4 * i) & 0x80008000u);
  return times(small, E2M1_TIMES);
}
// Bytes 0 and 2.
__device__ inline word e4m3(word codes) {
  return times((codes << E4M3_AT & E4M3) | (codes << 8 & 0x80008000u), E4M3_TIMES);
}
}
"""
