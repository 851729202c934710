"""What `experts_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

GATE_UP: a block makes 16 outputs of gate and up of one pair of a token and an expert, gated, and weighted with the
pair's share, so that DOWN has only to add up. Which expert that is, each warp finds for itself: the router's logits
are few, and another kernel would have to be waited for.

DOWN: a block makes 16 outputs of one token. Its warps divide the token's experts and their inputs among them, and
at the end the block adds up what they found, always in the same order.

The expert that every token uses is one more of each token, behind those chosen, with the number N and with weights
of its own.

Weights are read and multiplied as `product_source.py` says, but for one position, whose numbers the block has put
into shared memory. Each pair is computed alone, so its bits are the same however many there are; blocks of one
place in different experts lie side by side, so pairs that share an expert read its weights from the memory once,
mostly.

Outputs are a multiple of 32, being the inputs of a product before or behind, so no block is part empty.

Shapes: see `experts.py`.
"""

from __future__ import annotations

# A logit in the order of integers, and behind it its expert, of which the first is the largest: one maximum finds
# both, and equal logits make no two experts of one rank.
CHOICE = r"""
namespace few_rows {
struct Chosen { int expert; float share; };

__device__ inline word key(word logit, int expert) {
  return (logit & 0x8000u ? logit ^ 0xffffu : logit ^ 0x8000u) << 16 | (0xffffu - expert);
}
__device__ inline float logit(word key) {
  const word bits = key >> 16;
  return __uint_as_float((bits & 0x8000u ? bits ^ 0x8000u : bits ^ 0xffffu) << 16);
}

// Eight numbers.
__device__ inline void read_floats(const __nv_bfloat16* from, float (&to)[8]) {
  const uint4 v = *(const uint4*)from;
  const word pairs[4] = {v.x, v.y, v.z, v.w};
  #pragma unroll
  for (int i = 0; i < 8; i++) to[i] = number(pairs[i / 2], i % 2);
}
__device__ inline void read_floats(const float* from, float (&to)[8]) {
  #pragma unroll
  for (int i = 0; i < 8; i += 4) {
    const uint4 v = *(const uint4*)(from + i);
    to[i] = __uint_as_float(v.x), to[i + 1] = __uint_as_float(v.y);
    to[i + 2] = __uint_as_float(v.z), to[i + 3] = __uint_as_float(v.w);
  }
}

// keys: those of a lane; 0 for none.
template <int ACTIVE, bool NORMALIZED, int KEYS>
__device__ inline Chosen choose(word (&keys)[KEYS], int rank) {
  word best = 0;
  #pragma unroll
  for (int i = 0; i < KEYS; i++) best = max(best, keys[i]);
  const float most = logit(__reduce_max_sync(0xffffffff, best));
  float all = 0.f;
  if (!NORMALIZED) {
    #pragma unroll
    for (int i = 0; i < KEYS; i++) all += keys[i] ? __expf(logit(keys[i]) - most) : 0.f;
    #pragma unroll
    for (int mask = 16; mask; mask /= 2) all += __shfl_xor_sync(0xffffffff, all, mask);
  }
  Chosen found = {0, 0.f};
  for (int r = 0; r < ACTIVE; r++) {
    best = 0;
    #pragma unroll
    for (int i = 0; i < KEYS; i++) best = max(best, keys[i]);
    best = __reduce_max_sync(0xffffffff, best);
    #pragma unroll
    for (int i = 0; i < KEYS; i++) keys[i] = keys[i] == best ? 0 : keys[i];
    const float odds = __expf(logit(best) - most);
    if (NORMALIZED) all += odds;
    if (r == rank) found = {(int)(0xffffu - (best & 0xffffu)), odds};
  }
  found.share /= all;
  return found;
}
}
"""

SIZES = r"""
using namespace few_rows;
constexpr int WARPS = %(warps)d, TILES = %(tiles)d, AHEAD = %(ahead)d;
constexpr int EXPERTS = %(experts)d, ACTIVE = %(active)d, SHARED = %(shared)d, USED = ACTIVE + SHARED;
constexpr int W = %(W)d, OUT = %(out)d;
constexpr int STEP = %(step)d, STEPS = (W + STEP - 1) / STEP;  // inputs that four threads take at once
const int warp = threadIdx.x / 32, lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
__shared__ float found[WARPS][TILES * 16];
float acc[TILES][4] = {};
"""

# AHEAD steps from `begin` on with the rows of an expert, a slab of its matrix. `pick` names both, by the tile.
STEPS = r"""
  struct { %(fields)s } ahead[AHEAD][TILES][2];
  #pragma unroll
  for (int u = 0; u < AHEAD; u++) {
    const int k = min((begin + u) * STEP + t * (STEP / 4), W - STEP / 4);
    #pragma unroll
    for (int r = 0; r < TILES; r++) {
      %(pick)s
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        auto& one = ahead[u][r][h];
        const size_t row = (size_t)slab * OUT + first + g + 8 * h;
        %(fetch)s
      }
    }
  }
  #pragma unroll
  for (int u = 0; u < AHEAD; u++) {
    if (begin + u >= STEPS) break;
    %(multiply)s
  }
"""

# The position is the first column of a matrix of eight, which threads with g = 0 have.
POSITION = r"""uint4 v = make_uint4(0, 0, 0, 0);
      if (g == 0 && k < W) v = *(const uint4*)(x + k);
      word position[4];
      {
        word (&o)[4] = position;
        %(order)s
      }"""
DIRECT = r"""#pragma unroll
    for (int p = 0; p < STEP / 32; p++) {
      const int k = (begin + u) * STEP + t * (STEP / 4) + p * 8;
      %(position)s
      #pragma unroll
      for (int r = 0; r < TILES; r++) {
        word a[2][4];
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          const auto& one = ahead[u][r][h];
          word (&o)[4] = a[h];
          %(numbers)s
        }
        multiply(acc[r], a[0][0], a[1][0], a[0][1], a[1][1], position[0], position[1]);
        multiply(acc[r], a[0][2], a[1][2], a[0][3], a[1][3], position[2], position[3]);
      }
    }"""
GROUPED = r"""#pragma unroll
    for (int q = 0; q < STEP / 64; q++) {
      float part[TILES][4] = {}, total[4] = {};
      #pragma unroll
      for (int p = 0; p < 2; p++) {
        const int k = (begin + u) * STEP + q * 64 + t * 16 + p * 8;
        %(position)s
        multiply(total, ONES, ONES, ONES, ONES, position[0], position[1]);
        multiply(total, ONES, ONES, ONES, ONES, position[2], position[3]);
        #pragma unroll
        for (int r = 0; r < TILES; r++) {
          word a[2][4];
          #pragma unroll
          for (int h = 0; h < 2; h++) {
            const auto& one = ahead[u][r][h];
            word (&o)[4] = a[h];
            %(codes)s
          }
          multiply(part[r], a[0][0], a[1][0], a[0][1], a[1][1], position[0], position[1]);
          multiply(part[r], a[0][2], a[1][2], a[0][3], a[1][3], position[2], position[3]);
        }
      }
      #pragma unroll
      for (int r = 0; r < TILES; r++)
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          const auto& one = ahead[u][r][h];
          const float scale = number(one.scale, q), bias = number(one.bias, q) - LESS * scale;
          acc[r][2 * h] += scale * part[r][2 * h] + bias * total[2 * h];
        }
    }"""

TOGETHER = r"""
#pragma unroll
for (int r = 0; r < TILES; r++)
  if (t == 0) {
    found[warp][r * 16 + g] = acc[r][0];
    found[warp][r * 16 + g + 8] = acc[r][2];
  }
__syncthreads();
if (threadIdx.x >= 16) return;
"""

GATE_UP = (
    SIZES
    + r"""
const int pairs = tokens * USED, mine = blockIdx.x %% pairs, token = mine / USED, rank = mine %% USED;
const int tile = blockIdx.x / pairs, first = tile * 16;
const unsigned short* its = (const unsigned short*)logits + (size_t)token * (EXPERTS + SHARED);
constexpr int KEYS = (EXPERTS + 31) / 32;
word keys[KEYS];
#pragma unroll
for (int i = 0; i < KEYS; i++) {
  const int expert = i * 32 + lane;
  keys[i] = expert < EXPERTS ? key(its[expert], expert) : 0;
}

// The norm's factor is applied to what was found, as in other products.
constexpr int STAGED = W / 8;
__shared__ uint4 staged[STAGED];
__shared__ float norms[WARPS];
float squared = 0.f;
#pragma unroll
for (int j = 0; j < STAGED; j += WARPS * 32) {
  const int i = j + threadIdx.x;
  if (STAGED %% (WARPS * 32) == 0 || i < STAGED) {
    float x[8], scales[8];
    read_floats(inputs + (size_t)token * W + i * 8, x);
    read_floats(norm + i * 8, scales);
    word normed[4];
    #pragma unroll
    for (int p = 0; p < 4; p++) {
      const float one = x[2 * p], other = x[2 * p + 1];
      squared += one * one + other * other;
      normed[p] = bits(__floats2bfloat162_rn(one * scales[2 * p], other * scales[2 * p + 1]));
    }
    staged[i] = make_uint4(normed[0], normed[1], normed[2], normed[3]);
  }
}
#pragma unroll
for (int mask = 16; mask; mask /= 2) squared += __shfl_xor_sync(0xffffffff, squared, mask);
if (lane == 0) norms[warp] = squared;
const __nv_bfloat16* x = (const __nv_bfloat16*)staged;

const Chosen chosen = rank == ACTIVE
    ? Chosen{EXPERTS, 1.f / (1.f + __expf(-number(its[EXPERTS], 0)))}
    : choose<ACTIVE, %(normalized)s>(keys, rank);
const int expert = chosen.expert;
__syncthreads();
#pragma unroll 1
for (int begin = warp * AHEAD; begin < STEPS; begin += WARPS * AHEAD) {"""
    + STEPS
    + r"""}

// While the last blocks still read, and until the next kernel has begun, the memory would be idle.
constexpr size_t BYTES = %(down_bytes)d;
const size_t lines = expert == EXPERTS ? 0 : min(BYTES, (size_t)%(fetched)d / pairs) / 128;
for (size_t line = tile * blockDim.x + threadIdx.x; line < lines; line += gridDim.x / pairs * blockDim.x)
  asm volatile("prefetch.global.L2 [%%0];" :: "l"((const char*)down_weight + expert * BYTES + line * 128));
"""
    + TOGETHER
    + r"""
float sum = 0.f, a = 0.f, b = 0.f;
#pragma unroll
for (int w = 0; w < WARPS; w++) {
  sum += norms[w];
  a += found[w][threadIdx.x];
  b += found[w][16 + threadIdx.x];
}
const float factor = rsqrtf(sum / W + %(eps)s);
a *= factor;
b *= factor;
const int at = first + threadIdx.x;
gated[(size_t)mine * OUT + at] = (__nv_bfloat16)(a / (1.f + __expf(-a)) * b * chosen.share);
if (at == 0) experts[mine] = expert;
"""
)

DOWN = (
    SIZES
    + r"""
constexpr int CHUNKS = (STEPS + AHEAD - 1) / AHEAD;
const int token = blockIdx.x %% tokens, first = blockIdx.x / tokens * 16;
constexpr int STAGED = USED * W / 8;
__shared__ uint4 staged[STAGED];
__shared__ int used[USED];
if (threadIdx.x < USED) used[threadIdx.x] = experts[token * USED + threadIdx.x];
#pragma unroll
for (int j = 0; j < STAGED; j += WARPS * 32) {
  const int i = j + threadIdx.x;
  if (STAGED %% (WARPS * 32) == 0 || i < STAGED) staged[i] = ((const uint4*)gated)[(size_t)token * STAGED + i];
}
const size_t place = (size_t)token * OUT + first + threadIdx.x %% 16;
const float before = residual[place];
__syncthreads();
#pragma unroll 1
for (int unit = warp; unit < USED * CHUNKS; unit += WARPS) {
  const int rank = unit / CHUNKS, begin = unit %% CHUNKS * AHEAD, expert = used[rank];
  const __nv_bfloat16* x = (const __nv_bfloat16*)staged + rank * W;"""
    + STEPS
    + r"""}
%(fetch_ahead)s"""
    + TOGETHER
    + r"""
float y = 0.f;
#pragma unroll
for (int w = 0; w < WARPS; w++) y += found[w][threadIdx.x];
out[place] = (__nv_bfloat16)(y + before);
"""
)
