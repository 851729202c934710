"""The form of `rows_attention_source.py` on tensor cores: bfloat16 and float16, heads of 64, 128 or 256 numbers.

A warp takes sixteen positions together, or twice as many of narrow heads:

    scores [heads, positions] = queries [heads, D] x keys [D, positions]        8 of the 16 rows are empty
    found [D, heads] = values [D, positions] x weights [positions, heads]

From one product to the next nothing leaves its registers, as in FlashAttention-2 (Dao 2023): lane (g,t) finds the
scores of head g at positions 2t and 2t+1 of eight, and the second product wants the weights of just these from it.

The order of the inputs of a product is free, and so is that of its rows. So a lane takes 16 bytes at once. Of the
key of position g it takes the eight numbers from 8t on of each 32, four for each of two products, and the same ones
of a query. Of the values of four positions it takes the eight numbers from 8g on of each 64, two for each of four
products.

Queries are rounded to their type behind their rotation, as in the plain form. Weights are rounded for the second
product; what they are divided by is the sum of the rounded ones. Sums are float32. Who has what: `tensor_cores.py`.

Shapes: see `rows_attention.py`.
"""

from __future__ import annotations

HEADER = """
struct alignas(16) Words { unsigned int v[4]; };
"""
ASK = r"""
using namespace tensor_cores;
constexpr int TILES = %(tiles)d;                      // times 16 positions that a warp takes in a round
constexpr int AT_ONCE = TILES * 16, STEP = WARPS * AT_ONCE;
constexpr int CHUNKS = %(D)d / 32, BANDS = %(D)d / 64;
constexpr int TURNED = (G + GROUPS - 1) / GROUPS;     // heads are turned once, and meet in shared memory
const auto turned_head = [&](int i) { return min(group + i * GROUPS, G - 1); };
const int g = thread %% 32 / 4, t = thread %% 4;
const int begin = low + warp * AT_ONCE;
Words keys[TILES][2][CHUNKS], values[TILES][4][BANDS];
const auto key_position = [&](int round, int u, int n) { return min(round + u * 16 + n * 8 + g, high - 1); };
const auto value_position = [&](int round, int u, int i) {
  return min(round + u * 16 + i / 2 * 8 + 2 * t + i %% 2, high - 1);
};
const auto ask_keys = [&](int round) {
  #pragma unroll
  for (int u = 0; u < TILES; u++)
    #pragma unroll
    for (int n = 0; n < 2; n++) {
      const %(type)s* const from = numbers_of(key_position(round, u, n), own_keys, lane_keys) + t * 8;
      #pragma unroll
      for (int c = 0; c < CHUNKS; c++) keys[u][n][c] = read<Words>(from + c * 32);
    }
};
const auto ask_values = [&](int round) {
  #pragma unroll
  for (int u = 0; u < TILES; u++)
    #pragma unroll
    for (int i = 0; i < 4; i++) {
      const %(type)s* const from = numbers_of(value_position(round, u, i), own_values, lane_values) + g * 8;
      #pragma unroll
      for (int b = 0; b < BANDS; b++) values[u][i][b] = read<Words>(from + b * 64);
    }
};
"""
ROUNDS = r"""
__shared__ Pack all_queries[G][L + 4];  // so that lanes read from different banks
#pragma unroll
for (int i = 0; i < TURNED; i++) {
  Pack pack;
  #pragma unroll
  for (int e = 0; e < 8; e++) pack.v[e] = (%(type)s)q[i][e];
  if (group + i * GROUPS < G) all_queries[turned_head(i)][part] = pack;
}
__syncthreads();
const Pack* const queries_of = &all_queries[min(g, G - 1)][t];

float m = -INFINITY, l = 0.f, acc[BANDS][4][4] = {};
for (int round = begin; round < high; round += STEP) {
  const int next = round + STEP;
  %(now)s
  %(newest)s
  float score[TILES][2][4] = {};
  #pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    const Words query = *(const Words*)(queries_of + c * 4);
    #pragma unroll
    for (int half = 0; half < 4; half += 2)
      #pragma unroll
      for (int u = 0; u < TILES; u++)
        #pragma unroll
        for (int n = 0; n < 2; n++)
          multiply(score[u][n], query.v[half], 0, query.v[half + 1], 0,
                   keys[u][n][c].v[half], keys[u][n][c].v[half + 1]);
  }
  %(next_keys)s

  float most = m;
  #pragma unroll
  for (int u = 0; u < TILES; u++)
    #pragma unroll
    for (int n = 0; n < 2; n++)
      #pragma unroll
      for (int i = 0; i < 2; i++) {
        score[u][n][i] = round + u * 16 + n * 8 + 2 * t + i < high ? score[u][n][i] * %(scale)s : -INFINITY;
        most = fmaxf(most, score[u][n][i]);
      }
  most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
  most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
  const float kept = exp2f(m - most);
  m = most;
  l *= kept;
  word weights[TILES][2];
  #pragma unroll
  for (int u = 0; u < TILES; u++)
    #pragma unroll
    for (int n = 0; n < 2; n++) {
      weights[u][n] = rounded(exp2f(score[u][n][0] - most), exp2f(score[u][n][1] - most));
      const float2 both = floats(weights[u][n]);
      l += both.x + both.y;
    }

  // A head's factor is where its scores are, but what is found lies by other lanes.
  const float kept_of[2] = {__shfl_sync(0xffffffff, kept, t * 8), __shfl_sync(0xffffffff, kept, t * 8 + 4)};
  #pragma unroll
  for (int b = 0; b < BANDS; b++)
    #pragma unroll
    for (int j = 0; j < 4; j++) {
      float (&found)[4] = acc[b][j];
      #pragma unroll
      for (int i = 0; i < 4; i++) found[i] *= kept_of[i %% 2];
      #pragma unroll
      for (int u = 0; u < TILES; u++) {
        word of[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) of[i] = values[u][i][b].v[j];
        multiply(found, __byte_perm(of[0], of[1], 0x5410), __byte_perm(of[0], of[1], 0x7632),
                 __byte_perm(of[2], of[3], 0x5410), __byte_perm(of[2], of[3], 0x7632),
                 weights[u][0], weights[u][1]);
      }
    }
  %(next_values)s
}
l += __shfl_xor_sync(0xffffffff, l, 1);
l += __shfl_xor_sync(0xffffffff, l, 2);
if (t == 0 && g < G) { all_m[warp][g] = m; all_l[warp][g] = l; }
#pragma unroll
for (int b = 0; b < BANDS; b++)
  #pragma unroll
  for (int j = 0; j < 4; j++)
    #pragma unroll
    for (int i = 0; i < 4; i++)
      if (2 * t + i %% 2 < G) all_acc[warp][2 * t + i %% 2][b * 64 + g * 8 + 2 * j + i / 2] = acc[b][j][i];
"""
# What was asked for in its place was not written yet.
NEWEST = r"""
if (newest < round + AT_ONCE)
  #pragma unroll
  for (int u = 0; u < TILES; u++) {
    #pragma unroll
    for (int n = 0; n < 2; n++)
      #pragma unroll
      for (int c = 0; c < CHUNKS; c++)
        if (key_position(round, u, n) == newest) keys[u][n][c] = *(const Words*)&new_key[c * 4 + t];
    #pragma unroll
    for (int i = 0; i < 4; i++)
      #pragma unroll
      for (int b = 0; b < BANDS; b++)
        if (value_position(round, u, i) == newest) values[u][i][b] = *(const Words*)&new_value[b * 8 + g];
  }
"""
