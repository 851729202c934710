// What the kernels' sources use of CUDA, on a CPU: one block after the other, or all of them at once where they wait
// for each other. Whatever a warp does together goes through a box that its threads fill and read between two
// barriers.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "fibers.h"

using std::max;
using std::min;

#define __device__
#define __shared__ static

struct uint4 { unsigned x, y, z, w; };
struct uint2 { unsigned x, y; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define threadIdx (fibers[running].thread)
#define blockIdx (fibers[running].place)
#define own_block (fibers[running].block)
static Place blockDim, gridDim;

struct Warp {
  Gate gate{32};
  unsigned box[32][6];
};
struct Block {
  Gate gate;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<uint4> memory;
  Block(int threads, int shared) : gate(threads), memory(shared / 16 + 1) {
    for (int i = 0; i < threads / 32; i++) warps.push_back(std::make_unique<Warp>());
  }
};
inline void __syncthreads() { own_block->gate.wait(); }
inline void __syncwarp() { own_block->warps[threadIdx.x / 32]->gate.wait(); }
inline void __threadfence() {}
inline int atomicAdd(int* at, int more) { const int before = *at; *at += more; return before; }

template <typename T> inline T __shfl_sync(unsigned, T value, int from) {
  static_assert(sizeof(T) == 4);
  Warp& warp = *own_block->warps[threadIdx.x / 32];
  std::memcpy(&warp.box[threadIdx.x % 32][0], &value, 4);
  warp.gate.wait();
  T found;
  std::memcpy(&found, &warp.box[from][0], 4);
  warp.gate.wait();
  return found;
}
template <typename T> inline T __shfl_xor_sync(unsigned all, T value, int mask) {
  return __shfl_sync(all, value, threadIdx.x % 32 ^ mask);
}

inline unsigned __reduce_max_sync(unsigned all, unsigned value) {
  for (int mask = 16; mask; mask /= 2) value = max(value, __shfl_xor_sync(all, value, mask));
  return value;
}

inline float __uint_as_float(unsigned bits) { float v; std::memcpy(&v, &bits, 4); return v; }
inline unsigned __float_as_uint(float v) { unsigned bits; std::memcpy(&bits, &v, 4); return bits; }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = ((uint64_t)y << 32) | x;
  unsigned found = 0;
  for (int i = 0; i < 4; i++) found |= (unsigned)((both >> (8 * (selector >> (4 * i) & 7))) & 0xff) << (8 * i);
  return found;
}
inline float fmaf(float a, float b, float c) { return std::fma(a, b, c); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)((((uint64_t)high << 32) | low) >> (shift & 31));
}
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
template <typename T> inline T __ldcg(const T* from) { return *from; }
template <typename T> inline void __stcg(T* to, T v) { *to = v; }

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float v) {
    const unsigned wide = __float_as_uint(v);
    bits = (wide & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
  }
  operator float() const { return __uint_as_float((unsigned)bits << 16); }
};
struct __half {
  uint16_t bits;
  __half() = default;
  __half(float v) {
    const float size = std::fabs(v);
    const int exponent = size == 0.f ? -14 : max(std::ilogb(size), -14);
    const unsigned digits = size < 65520.f ? (exponent + 14) * 1024 + std::nearbyint(std::ldexp(size, 10 - exponent))
                                           : 0x7c00 + 0x200 * std::isnan(v);
    bits = digits | (std::signbit(v) << 15);
  }
  operator float() const {
    const int exponent = bits >> 10 & 31, digits = bits & 1023;
    const float size = exponent == 31 ? (digits ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024.f + digits, exponent - 25)
                                      : std::ldexp((float)digits, -24);
    return bits >> 15 ? -size : size;
  }
};
template <typename T> struct Two { T x, y; };
typedef Two<__nv_bfloat16> __nv_bfloat162;
typedef Two<__half> __half2;
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
inline __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
template <typename T> Two<T> __hmul2(Two<T> a, Two<T> b) { return {(float)a.x * (float)b.x, (float)a.y * (float)b.y}; }
template <typename T> Two<T> __hsub2(Two<T> a, Two<T> b) { return {(float)a.x - (float)b.x, (float)a.y - (float)b.y}; }
template <typename T> Two<T> __hfma2(Two<T> a, Two<T> b, Two<T> c) {
  return {std::fma((float)a.x, (float)b.x, (float)c.x), std::fma((float)a.y, (float)b.y, (float)c.y)};
}

// mma.sync.aligned.m16n8k16.row.col with float32 sums, by the layout of fragments in the PTX manual.
template <typename T>
void emulated_mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  Warp& warp = *own_block->warps[threadIdx.x / 32];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const unsigned mine[6] = {a0, a1, a2, a3, b0, b1};
  std::memcpy(warp.box[lane], mine, sizeof(mine));
  warp.gate.wait();
  auto half = [](unsigned both, int which) {
    T found;
    found.bits = which ? both >> 16 : both;
    return (float)found;
  };
  for (int i = 0; i < 4; i++) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; k++)
      c[i] += half(warp.box[row % 8 * 4 + k % 8 / 2][k / 8 * 2 + row / 8], k % 2) *
              half(warp.box[column * 4 + k % 8 / 2][4 + k / 8], k % 2);
  }
  warp.gate.wait();
}

template <typename Kernel> void launch(Place grid, int threads, int shared, bool together, Kernel kernel) {
  gridDim = grid;
  blockDim = {threads, 1, 1};
  std::vector<std::unique_ptr<Block>> blocks;
  auto run = [&] {
    run_fibers([=] {
      kernel();
      own_block->gate.drop();
    });
    blocks.clear();
  };
  for (int z = 0; z < grid.z; z++)
    for (int y = 0; y < grid.y; y++)
      for (int x = 0; x < grid.x; x++) {
        blocks.push_back(std::make_unique<Block>(threads, shared));
        for (int i = 0; i < threads; i++) {
          fibers.emplace_back();
          fibers.back().thread = {i, 0, 0};
          fibers.back().place = {x, y, z};
          (fibers.back().block) = blocks.back().get();
        }
        if (!together) run();
      }
  if (together) run();
}
