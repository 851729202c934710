"""What differs between kinds of weights in `seam_source.py`: how an item's inputs are asked for, and how they are
multiplied with it. By the bits of a packed weight; 0 stands for bfloat16.

Lane t of four has inputs that lie next to one another, and the same places of 16 rows of the weight. As soon as a
piece of inputs was multiplied, the next piece is asked for in its place: behind all the weights that are under way
it comes a thousand cycles later.
"""

from __future__ import annotations

ASKED = r"""
// Which items a warp's inputs are asked for: the present one, and the next.
template <int W> struct Asked {
  const __nv_bfloat16* x;
  int item, next, rows;
  __device__ inline void begin(Inputs<W>& inputs) const {
    #pragma unroll
    for (int q = 0; q < EARLY; q++) inputs.ask_piece(x, item, q, rows);
  }
  // In the place of piece q, which was multiplied.
  __device__ inline void ask(Inputs<W>& inputs, int q) const {
    inputs.ask_piece(x, q + EARLY < PIECES ? item : next, (q + EARLY) %% PIECES, rows);
  }
};
"""

FLOATS = r"""
struct Constants { __device__ inline Constants(word) {} };
constexpr int PIECES = 2, EARLY = 2;
template <int W> struct Inputs {
  uint4 eights[EARLY][COLS] = {};
  __device__ inline void ask_piece(const __nv_bfloat16* x, int item, int p, int rows) {
    const int lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
    #pragma unroll
    for (int n = 0; n < COLS; n++) {
      const __nv_bfloat16* from = x + (size_t)(n * 8 + g) * W + item * INPUTS + p * 32 + t * 8;
      if (n * 8 + g < rows) eights[p %% EARLY][n] = read_eight(from);
    }
  }
};
"""
MULTIPLY_FLOATS = r"""
template <int TILES, int W>
__device__ inline void multiply_item(float (&acc)[TILES][COLS][4], const unsigned char* (&slots)[TILES],
                                     Inputs<W>& inputs, const Asked<W>& asked, const Constants&) {
  const int lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
  #pragma unroll
  for (int p = 0; p < PIECES; p++) {
    #pragma unroll
    for (int r = 0; r < TILES; r++) {
      const uint4 a = *(const uint4*)(slots[r] + g * 128 + place(g, p * 4 + t) * 16);
      const uint4 b = *(const uint4*)(slots[r] + (g + 8) * 128 + place(g + 8, p * 4 + t) * 16);
      #pragma unroll
      for (int n = 0; n < COLS; n++) {
        const uint4 v = inputs.eights[p][n];
        multiply(acc[r][n], a.x, b.x, a.y, b.y, v.x, v.y);
        multiply(acc[r][n], a.z, b.z, a.w, b.w, v.z, v.w);
      }
    }
    asked.ask(inputs, p);
  }
}
"""

# Numbers that stay in registers. What the compiler knows to be constant it makes anew wherever it is used, an
# instruction for each of a pair of codes; it does not know that `nothing` is 0.
CONSTANTS = r"""
struct Constants {
  word ones, mask, above;
  __device__ inline Constants(word nothing)
      : ones(0x3f803f80u + nothing), mask(0x000f000fu + nothing), above(0x43004300u + nothing) {}
};
"""
# Codes are multiplied as they are, and the sums of 64 inputs, which share a scale, are scaled. What a bias adds is
# a multiple of the sum of these inputs, a product with ones.
CODES = r"""
constexpr int PIECES = INPUTS / 64;
constexpr int EARLY = COLS == 1 ? PIECES : COLS == 2 ? 2 : 1;  // of which the inputs are under way

__device__ inline float number(const unsigned char* from, int which) {
  return (float)((const __nv_bfloat16*)from)[which];
}

template <int W> struct Inputs {
  uint4 eights[EARLY][2][COLS] = {};
  __device__ inline void ask_piece(const __nv_bfloat16* x, int item, int q, int rows) {
    const int lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
    #pragma unroll
    for (int p = 0; p < 2; p++)
      #pragma unroll
      for (int n = 0; n < COLS; n++) {
        const __nv_bfloat16* from = x + (size_t)(n * 8 + g) * W + item * INPUTS + q * 64 + t * 16 + p * 8;
        if (n * 8 + g < rows) eights[q %% EARLY][p][n] = read_eight(from);
      }
  }
};
"""
MULTIPLY_CODES = r"""
template <int TILES, int W>
__device__ inline void multiply_item(float (&acc)[TILES][COLS][4], const unsigned char* (&slots)[TILES],
                                     Inputs<W>& inputs, const Asked<W>& asked, const Constants& kept) {
  const int lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
  #pragma unroll
  for (int q = 0; q < PIECES; q++) {
    float part[TILES][COLS][4] = {}, total[COLS][4] = {};
    %(piece)s codes[TILES][2];
    #pragma unroll
    for (int r = 0; r < TILES; r++)
      #pragma unroll
      for (int h = 0; h < 2; h++) codes[r][h] = read_piece(slots[r], g + 8 * h, q, t);
    #pragma unroll
    for (int p = 0; p < 2; p++) {
      word positions[COLS][4];
      #pragma unroll
      for (int n = 0; n < COLS; n++) {
        const uint4 v = inputs.eights[q %% EARLY][p][n];
        word (&o)[4] = positions[n];
        %(order)s
        multiply(total[n], kept.ones, kept.ones, kept.ones, kept.ones, o[0], o[1]);
        multiply(total[n], kept.ones, kept.ones, kept.ones, kept.ones, o[2], o[3]);
      }
      #pragma unroll
      for (int r = 0; r < TILES; r++) {
        word a[2][4];
        #pragma unroll
        for (int h = 0; h < 2; h++) numbers_of(a[h], codes[r][h], p, kept);
        #pragma unroll
        for (int n = 0; n < COLS; n++) {
          multiply(part[r][n], a[0][0], a[1][0], a[0][1], a[1][1], positions[n][0], positions[n][1]);
          multiply(part[r][n], a[0][2], a[1][2], a[0][3], a[1][3], positions[n][2], positions[n][3]);
        }
      }
    }
    asked.ask(inputs, q);
    #pragma unroll
    for (int r = 0; r < TILES; r++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        const unsigned char* scales = slots[r] + 2048 + (g + 8 * h) * SCALES;
        const float scale = number(scales, q * 64 / GROUP);
        const float bias = number(scales + 16 * SCALES, q * 64 / GROUP) - %(less)s * scale;
        #pragma unroll
        for (int n = 0; n < COLS; n++)
          #pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; i++)
            acc[r][n][i] = fmaf(scale, part[r][n][i], fmaf(bias, total[n][i], acc[r][n][i]));
      }
  }
}
"""

# A code of four bits behind 0x43 is the bfloat16 128 + code. Of the eight codes in a word the first and the fifth
# are one pair, the second and the sixth the next.
FOUR = {
    "piece": "uint2",
    "order": """o[0] = __byte_perm(v.x, v.z, 0x5410); o[1] = __byte_perm(v.x, v.z, 0x7632);
        o[2] = __byte_perm(v.y, v.w, 0x5410); o[3] = __byte_perm(v.y, v.w, 0x7632);""",
    "less": "128.f",
}
FOUR_READ = r"""
__device__ inline uint2 read_piece(const unsigned char* slot, int row, int q, int t) {
  return *(const uint2*)(slot + row * 128 + place(row, q * 2 + t / 2) * 16 + t %% 2 * 8);
}
__device__ inline void numbers_of(word (&o)[4], uint2 piece, int p, const Constants& kept) {
  const word codes = p == 0 ? piece.x : piece.y;
  #pragma unroll
  for (int i = 0; i < 4; i++) o[i] = (codes >> (4 * i)) & kept.mask | kept.above;
}
"""

# A byte in the place of the last bits of the float 2^23 is 2^23 + byte, and a bfloat16 holds it exactly.
EIGHT = {
    "piece": "uint4",
    "order": "o[0] = v.x; o[1] = v.y; o[2] = v.z; o[3] = v.w;",
    "less": "0.f",
}
EIGHT_READ = r"""
__device__ inline uint4 read_piece(const unsigned char* slot, int row, int q, int t) {
  return *(const uint4*)(slot + row * 128 + place(row, q * 4 + t) * 16);
}
__device__ inline void numbers_of(word (&o)[4], uint4 piece, int p, const Constants&) {
  #pragma unroll
  for (int i = 0; i < 4; i++) {
    const word codes = p == 0 ? (i < 2 ? piece.x : piece.y) : (i < 2 ? piece.z : piece.w);
    const word low = 0x7650u + i %% 2 * 2;
    const float a = __uint_as_float(__byte_perm(codes, 0x4b000000u, low)) - 8388608.f;
    const float b = __uint_as_float(__byte_perm(codes, 0x4b000000u, low + 1)) - 8388608.f;
    o[i] = bits(__floats2bfloat162_rn(a, b));
  }
}
"""
_OF_FLOATS = FLOATS + ASKED + MULTIPLY_FLOATS
_OF_CODES = CODES + ASKED + MULTIPLY_CODES
FORMS = {0: _OF_FLOATS, 4: CONSTANTS + FOUR_READ + _OF_CODES, 8: CONSTANTS + EIGHT_READ + _OF_CODES}
WORDS: dict[int, dict[str, str]] = {0: {}, 4: FOUR, 8: EIGHT}
