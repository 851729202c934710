"""What `product_cuda.py` compiles, but for the kinds of weights: those are in `product_forms.py`, and the functions
that both use in `product_header.py`. Words in %(parentheses)s are filled in for each shape.

A block makes 16 outputs, or 16 that gate 16 others, of all positions. Its warps share the W inputs among them, in
chunks; each multiplies 16 rows of the weight with 8 positions at a time on the tensor cores (mma m16n8k16), in
float32, and at the end the block adds up what its warps found. The work of an output is the same, in the same
order, however many positions there are, so its bits are the same too.

The order of the inputs within a product is free, so that a thread takes 16 bytes of a row at once: those of thread
t of 4 are neighbours, and the positions are put in the same order. Packed words become numbers on their way into
the tensor cores, as MLX dequantizes them, or stay codes there, whose sums are scaled: a processor that scales and
rounds each weight is slower than the memory.

A norm's factor belongs to a position, so it is applied to what was found: the sum of squares is gathered beside the
product, and no weight waits for it. A norm's weight that is more than bfloat16 comes as what it adds to 1.

Shapes: see `product.py`.
"""

from __future__ import annotations

BODY = r"""
using namespace few_rows;
constexpr int WARPS = %(warps)d, TILES = %(tiles)d, COLS = %(cols)d, CHUNK = %(chunk)d, AHEAD = %(ahead)d;
constexpr int W = %(W)d, N = %(N)d, OUT = %(out)d;
constexpr int STEP = %(step)d, STEPS = (W + STEP - 1) / STEP;  // inputs that four threads take at once
constexpr int EIGHTS = STEP / 32;                              // of a thread's inputs in a step
constexpr int PIECES = STEP / 64;
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
    %(scaled)s
    %(bias)s
    return y;
  };
  float y = output(0);
  %(gate)s
  const size_t place = (size_t)c * OUT + at;
  %(residual)s
  out[place] = (Number)y;
}
"""

# A form's way: how inputs are asked for ahead (`load`), how eight of a position are taken where they are multiplied
# (`take`), and the product of a step (`multiply`).
TAKE = """if (k < W && n * 8 + g < rows) v = *(const uint4*)(x + (size_t)(n * 8 + g) * W + k);
        %(norm_at_once)s"""
# Numbers are scaled on their way into the tensor cores.
SCALED = """#pragma unroll
    for (int p = 0; p < EIGHTS; p++) {
      const int k = (begin + u) * STEP + t * (STEP / 4) + p * 8;
      word positions[COLS][4];
      #pragma unroll
      for (int n = 0; n < COLS; n++) {
        uint4 v = make_uint4(0, 0, 0, 0);
        %(take)s
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
    }"""
# A thread asks for its inputs together with its weights.
EARLY = {
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
    "take": """v = eights[u][p][n];
        %(norm_apply)s""",
    "multiply": SCALED,
}
# It takes them when it needs them: it has not the registers for all inputs of a step.
LATE = {"load": "", "take": TAKE, "multiply": SCALED}
# Codes are multiplied as they are, and the sums of a group are scaled: 64 inputs of one group, four times 16, come
# next to one another. What a bias adds is a multiple of the sum of the group's inputs, a product with ones.
GROUPED = {
    "load": "",
    "take": TAKE,
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
          %(take)s
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
          const float scale = number(one.scale, q), bias = number(one.bias, q) - LESS * scale;
          #pragma unroll
          for (int n = 0; n < COLS; n++)
            #pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++)
              acc[r][n][i] += UNIT * scale * part[r][n][i] + bias * total[n][i];
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
  factor = SHRUNK * rsqrtf(sum / W + %(eps)s);""",
}
FACTOR = "y *= factors[tile * OUT + at];"
BIAS = "y += (float)bias[tile * OUT + at];"
# While the last blocks still read, and until the next kernel has begun, the memory would be idle.
FETCH_AHEAD = """
for (size_t line = blockIdx.x * (size_t)blockDim.x + threadIdx.x; line < %(lines)d; line += gridDim.x * blockDim.x)
  asm volatile("prefetch.global.L2 [%%0];" :: "l"((const char*)following + line * 128));
"""
GATE = "y = y / (1.f + __expf(-y)) * output(1);"
RESIDUAL = "y += (float)residual[place];"
