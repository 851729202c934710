"""What `product_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

A block makes 16 outputs, or 16 that gate 16 others, of all positions. Its warps share the W inputs among them, in
chunks; each multiplies 16 rows of the weight with 8 positions at a time on the tensor cores (mma m16n8k16), in
float32, and at the end the block adds up what its warps found. The work of an output is the same, in the same
order, however many positions there are, so its bits are the same too.

The order of the inputs within a product is free, so that a thread takes 16 bytes of a row at once: those of thread
t of 4 are neighbours, and the positions are put in the same order. Packed words become bfloat16 on their way into
the tensor cores, as MLX dequantizes them, or stay codes there, whose sums are scaled: a processor that scales and
rounds each weight is slower than the memory.

A norm's factor belongs to a position, so it is applied to what was found: the sum of squares is gathered beside the
product, and no weight waits for it. A norm's weight that is more than bfloat16 comes as what it adds to 1.

Shapes: see `product.py`.
"""

from __future__ import annotations

HEADER = r"""
namespace few_rows {
typedef unsigned int word;

__device__ inline word bits(__nv_bfloat162 pair) { return *(word*)&pair; }
__device__ inline __nv_bfloat162 pair(word bits) { return *(__nv_bfloat162*)&bits; }
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
__device__ inline float number(word both, int which) {
  return __uint_as_float(which ? both & 0xffff0000u : both << 16);
}
__device__ inline void multiply(float (&c)[4], word a0, word a1, word a2, word a3, word b0, word b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline float squares(word v) {
  const float2 both = __bfloat1622float2(pair(v));
  return both.x * both.x + both.y * both.y;
}
}
"""

BODY = r"""
using namespace few_rows;
constexpr int WARPS = %(warps)d, TILES = %(tiles)d, COLS = %(cols)d, CHUNK = %(chunk)d, AHEAD = %(ahead)d;
constexpr int W = %(W)d, N = %(N)d, OUT = %(out)d;
constexpr int STEP = %(step)d, STEPS = (W + STEP - 1) / STEP;  // inputs that four threads take at once
constexpr int EIGHTS = STEP / 32;                              // of a thread's inputs in a step
constexpr int PIECES = STEP / 64;
constexpr word ONES = 0x3f803f80u;
const int warp = threadIdx.x / 32, lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
const int first = blockIdx.x * 16;

size_t weight_row[TILES][2];
#pragma unroll
for (int r = 0; r < TILES; r++)
  #pragma unroll
  for (int h = 0; h < 2; h++) weight_row[r][h] = min(first + r * OUT + g + 8 * h, N - 1);

float acc[TILES][COLS][4] = {}, sum_of_squares[COLS] = {};
for (int chunk = warp * CHUNK; chunk < STEPS; chunk += WARPS * CHUNK)
#pragma unroll 1
for (int begin = chunk; begin < min(chunk + CHUNK, STEPS); begin += AHEAD) {
  struct { %(fields)s } ahead[AHEAD][TILES][2];
  #pragma unroll
  for (int u = 0; u < AHEAD; u++) {
    const int k = min((begin + u) * STEP + t * (STEP / 4), W - STEP / 4);
    #pragma unroll
    for (int r = 0; r < TILES; r++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        auto& one = ahead[u][r][h];
        const size_t row = weight_row[r][h];
        %(fetch)s
      }
  }
  %(load)s
  #pragma unroll
  for (int u = 0; u < AHEAD; u++) {
    if (begin + u >= STEPS) break;
    %(multiply)s
  }
}

%(fetch_ahead)s
__shared__ float found[WARPS][TILES * 16][COLS * 8 + 1], norms[WARPS][COLS * 8];
#pragma unroll
for (int n = 0; n < COLS; n++) {
  #pragma unroll
  for (int r = 0; r < TILES; r++)
    #pragma unroll
    for (int i = 0; i < 4; i++) found[warp][r * 16 + g + i / 2 * 8][n * 8 + 2 * t + i %% 2] = acc[r][n][i];
  %(norm_share)s
}
__syncthreads();
for (int i = threadIdx.x; i < 16 * rows; i += WARPS * 32) {
  const int c = i / 16, j = i %% 16, at = first + j;
  if (at >= OUT) continue;
  float factor = 1.f;
  %(norm_factor)s
  auto output = [&](int tile) {
    float y = 0.f;
    #pragma unroll
    for (int w = 0; w < WARPS; w++) y += found[w][tile * 16 + j][c];
    y *= factor;
    %(bias)s
    return y;
  };
  float y = output(0);
  %(gate)s
  const size_t place = (size_t)c * OUT + at;
  %(residual)s
  out[place] = (__nv_bfloat16)y;
}
"""

# Numbers are scaled on their way into the tensor cores.
DIRECT = {
    "load": """uint4 eights[AHEAD][EIGHTS][COLS] = {};
  %(norm_fields)s
  #pragma unroll
  for (int u = 0; u < AHEAD; u++)
    #pragma unroll
    for (int p = 0; p < EIGHTS; p++) {
      const int k = (begin + u) * STEP + t * (STEP / 4) + p * 8;
      if (k < W) {
        %(norm_load)s
        #pragma unroll
        for (int n = 0; n < COLS; n++)
          if (n * 8 + g < rows) eights[u][p][n] = read_eight(x + (size_t)(n * 8 + g) * W + k);
      }
    }""",
    "multiply": """#pragma unroll
    for (int p = 0; p < EIGHTS; p++) {
      word positions[COLS][4];
      #pragma unroll
      for (int n = 0; n < COLS; n++) {
        uint4 v = eights[u][p][n];
        %(norm_apply)s
        word (&o)[4] = positions[n];
        %(order)s
      }
      #pragma unroll
      for (int r = 0; r < TILES; r++) {
        word a[2][4];
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          const auto& one = ahead[u][r][h];
          word (&o)[4] = a[h];
          %(numbers)s
        }
        #pragma unroll
        for (int n = 0; n < COLS; n++) {
          multiply(acc[r][n], a[0][0], a[1][0], a[0][1], a[1][1], positions[n][0], positions[n][1]);
          multiply(acc[r][n], a[0][2], a[1][2], a[0][3], a[1][3], positions[n][2], positions[n][3]);
        }
      }
    }""",
}
# Codes are multiplied as they are, and the sums of a group are scaled: 64 inputs of one group, four times 16, come
# next to one another. What a bias adds is a multiple of the sum of the group's inputs, a product with ones.
GROUPED = {
    "load": "",
    "multiply": """#pragma unroll
    for (int q = 0; q < PIECES; q++) {
      float part[TILES][COLS][4] = {}, total[COLS][4] = {};
      #pragma unroll
      for (int p = 0; p < 2; p++) {
        const int k = (begin + u) * STEP + q * 64 + t * 16 + p * 8;
        word positions[COLS][4];
        #pragma unroll
        for (int n = 0; n < COLS; n++) {
          uint4 v = make_uint4(0, 0, 0, 0);
          if (k < W && n * 8 + g < rows) v = *(const uint4*)(x + (size_t)(n * 8 + g) * W + k);
          %(norm_at_once)s
          word (&o)[4] = positions[n];
          %(order)s
          multiply(total[n], ONES, ONES, ONES, ONES, o[0], o[1]);
          multiply(total[n], ONES, ONES, ONES, ONES, o[2], o[3]);
        }
        #pragma unroll
        for (int r = 0; r < TILES; r++) {
          word a[2][4];
          #pragma unroll
          for (int h = 0; h < 2; h++) {
            const auto& one = ahead[u][r][h];
            word (&o)[4] = a[h];
            %(codes)s
          }
          #pragma unroll
          for (int n = 0; n < COLS; n++) {
            multiply(part[r][n], a[0][0], a[1][0], a[0][1], a[1][1], positions[n][0], positions[n][1]);
            multiply(part[r][n], a[0][2], a[1][2], a[0][3], a[1][3], positions[n][2], positions[n][3]);
          }
        }
      }
      #pragma unroll
      for (int r = 0; r < TILES; r++)
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          const auto& one = ahead[u][r][h];
          const float scale = number(one.scale, q), bias = number(one.bias, q) - %(less)s * scale;
          #pragma unroll
          for (int n = 0; n < COLS; n++)
            #pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) acc[r][n][i] += scale * part[r][n][i] + bias * total[n][i];
        }
    }""",
}

NORM = {
    "norm_at_once": """if (k < W) {
            const uint4 scale = *(const uint4*)(norm + k);
            sum_of_squares[n] += squares(v.x) + squares(v.y) + squares(v.z) + squares(v.w);
            v = make_uint4(%(times)s(v.x, scale.x), %(times)s(v.y, scale.y), %(times)s(v.z, scale.z),
                           %(times)s(v.w, scale.w));
          }""",
    "norm_fields": "uint4 norms_of[AHEAD][EIGHTS] = {};",
    "norm_load": "norms_of[u][p] = read_eight(norm + k);",
    "norm_apply": """const uint4 scale = norms_of[u][p];
        sum_of_squares[n] += squares(v.x) + squares(v.y) + squares(v.z) + squares(v.w);
        v = make_uint4(%(times)s(v.x, scale.x), %(times)s(v.y, scale.y), %(times)s(v.z, scale.z),
                           %(times)s(v.w, scale.w));""",
    "norm_share": """float sum = sum_of_squares[n];
  sum += __shfl_xor_sync(0xffffffff, sum, 1);
  sum += __shfl_xor_sync(0xffffffff, sum, 2);
  if (t == 0) norms[warp][n * 8 + g] = sum;""",
    "norm_factor": """float sum = 0.f;
  #pragma unroll
  for (int w = 0; w < WARPS; w++) sum += norms[w][c];
  factor = rsqrtf(sum / W + %(eps)s);""",
}
BIAS = "y += (float)bias[tile * OUT + at];"
# While the last blocks still read, and until the next kernel has begun, the memory would be idle.
FETCH_AHEAD = """
for (size_t line = blockIdx.x * (size_t)blockDim.x + threadIdx.x; line < %(lines)d; line += gridDim.x * blockDim.x)
  asm volatile("prefetch.global.L2 [%%0];" :: "l"((const char*)following + line * 128));
"""
GATE = "y = y / (1.f + __expf(-y)) * output(1);"
RESIDUAL = "y += (float)residual[place];"

# For each kind of weight: `step` inputs that four threads take at once, the `fields` that a thread keeps of a row,
# how it gets them (`fetch`), how eight of them become four pairs of bfloat16 (`numbers`), and how eight numbers of
# a position get the same `order`.
FLOATS = {
    "step": 32,
    "fields": "uint4 v;",
    "fetch": "one.v = read_weight(weight + row * W + k);",
    "numbers": "o[0] = one.v.x; o[1] = one.v.y; o[2] = one.v.z; o[3] = one.v.w;",
    "order": "o[0] = v.x; o[1] = v.y; o[2] = v.z; o[3] = v.w;",
}
SCALES = """const size_t group = row * (W / %(group)d) + k / %(group)d;
        one.scale = read_twice(scales + group);
        one.bias = read_twice(biases + group);"""
# A group's scales and biases for the two halves of a step, side by side where they lie so.
TWO_SCALES = """const int last = (W - 1) / %(group)d;
        const size_t groups = row * (size_t)(W / %(group)d);
        const int one_group = min(step * STEP / %(group)d, last), other = min((step * STEP + 64) / %(group)d, last);
        if constexpr (%(group)d == 64 && W %% 128 == 0) {
          one.scale = read_word(scales + groups + one_group);
          one.bias = read_word(biases + groups + one_group);
        } else {
          const auto both = [&](const __nv_bfloat16* of) {
            return __byte_perm(read_twice(of + groups + one_group), read_twice(of + groups + other), 0x5410);
          };
          one.scale = both(scales);
          one.bias = both(biases);
        }"""
# A code of four bits behind 0x43 is the bfloat16 128 + code. Of the eight codes in a word the first and the fifth
# are one pair, the second and the sixth the next.
NIBBLES = {
    "step": 128,
    "fields": "uint4 v; word scale, bias;",
    "fetch": "one.v = read_weight(weight + row * (W / 8) + k / 8);\n        " + SCALES,
    "numbers": """const word codes = p == 0 ? one.v.x : p == 1 ? one.v.y : p == 2 ? one.v.z : one.v.w;
          #pragma unroll
          for (int i = 0; i < 4; i++) {
            const word above = ((codes >> (4 * i)) & 0x000f000fu) | 0x43004300u;
            o[i] = bits(__hfma2(__hsub2(pair(above), pair(0x43004300u)), pair(one.scale), pair(one.bias)));
          }""",
    "order": """o[0] = __byte_perm(v.x, v.z, 0x5410); o[1] = __byte_perm(v.x, v.z, 0x7632);
        o[2] = __byte_perm(v.y, v.w, 0x5410); o[3] = __byte_perm(v.y, v.w, 0x7632);""",
}
# The same where groups are at least 64 inputs.
LONG_NIBBLES = {
    "step": 128,
    "fields": "uint2 v[2]; word scale, bias;",
    "fetch": """const int step = min(begin + u, STEPS - 1);
        #pragma unroll
        for (int q = 0; q < 2; q++)
          one.v[q] = read_half(weight + row * (W / 8) + min(step * STEP + q * 64 + t * 16, W - 16) / 8);
        """
    + TWO_SCALES,
    "codes": """const word codes = p == 0 ? one.v[q].x : one.v[q].y;
            #pragma unroll
            for (int i = 0; i < 4; i++) o[i] = ((codes >> (4 * i)) & 0x000f000fu) | 0x43004300u;""",
    "order": NIBBLES["order"],
    "less": "128.f",
    "numbers": "",
}
# A byte in the place of the last bits of the float 2^23 is 2^23 + byte.
BYTES = {
    "step": 64,
    "fields": "uint4 v; word scale, bias;",
    "fetch": "one.v = read_weight(weight + row * (W / 4) + k / 4);\n        " + SCALES,
    "numbers": """#pragma unroll
          for (int i = 0; i < 4; i++) {
            const word codes = p == 0 ? (i < 2 ? one.v.x : one.v.y) : (i < 2 ? one.v.z : one.v.w);
            const word low = 0x7650u + i % 2 * 2;
            const float a = __uint_as_float(__byte_perm(codes, 0x4b000000u, low)) - 8388608.f;
            const float b = __uint_as_float(__byte_perm(codes, 0x4b000000u, low + 1)) - 8388608.f;
            o[i] = bits(__hfma2(__floats2bfloat162_rn(a, b), pair(one.scale), pair(one.bias)));
          }""",
    "order": FLOATS["order"],
}
FORMS = {0: FLOATS, 4: NIBBLES, 8: BYTES}
"""By the bits of a packed weight; 0 for floats."""
LONG = {4: LONG_NIBBLES}
"""Those for groups of at least 64."""
