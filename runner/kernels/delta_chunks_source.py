"""What `delta_chunks_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

A block belongs to a row, a head and 16 columns of S, which it keeps in shared memory from the first chunk to the
last: a column depends on no other. All products are in float32, since S is rounded at every chunk. A thread makes
four columns of what a product gives; rows in shared memory have four numbers more than they need, so that threads
that read eight of them at once find them in different banks.

Shapes: see `delta_chunks.py`.
"""

from __future__ import annotations

HEADER = r"""
namespace delta_chunks { struct alignas(16) Four { float v[4]; }; }
"""

BODY = r"""
using delta_chunks::Four;
constexpr int P = %(P)d, Q = %(Q)d, T = %(T)d, COLS = %(columns)d;
constexpr int THREADS = %(threads)d, QUADS = COLS / 4, LINES = THREADS / QUADS;
static_assert(LINES == 2 * T);
const int thread = threadIdx.x, column = thread %% QUADS * 4, line = thread / QUADS;
const int first = blockIdx.x * COLS;
const size_t head = blockIdx.y;  // of a row

__shared__ Four s[P][QUADS], writes[T][QUADS], rows[2][T][P / 4 + 1], weights[T][T / 4 + 1];
auto copied = [&](auto& to, const float* from, int width) {
  const int fours = width / 4;
  for (int i = thread; i < T * fours; i += THREADS) to[i / fours][i %% fours] = ((const Four*)from)[i];
};
auto add = [](Four& to, float factor, const Four& more) {
  #pragma unroll
  for (int e = 0; e < 4; e++) to.v[e] += factor * more.v[e];
};
auto column_of = [&](int p) { return (head * P + p) * Q + first + column; };
for (int p = line; p < P; p += LINES) s[p][column / 4] = *(const Four*)(memory + column_of(p));

for (int n = 0; n < chunks; n++) {
  const size_t chunk = head * chunks + n;
  copied(rows[0], corrected + chunk * T * P, P);
  copied(rows[1], queries + chunk * T * P, P);
  copied(weights, scores + chunk * T * T, T);
  const int t = line %% T;
  const size_t place = (chunk * T + t) * Q + first + column;
  Four sum = {};
  if (line < T) sum = *(const Four*)(fresh + place);
  __syncthreads();

  // The first half of the lines finds what is written, the second half what answers begin with.
  Four found = {};
  #pragma unroll 4
  for (int p = 0; p < P; p += 4) {
    const Four factors = rows[line / T][t][p / 4];
    #pragma unroll
    for (int e = 0; e < 4; e++) add(found, factors.v[e], s[p + e][column / 4]);
  }
  if (line < T) {
    add(sum, -1.f, found);
    writes[t][column / 4] = sum;
  }
  __syncthreads();

  copied(rows[0], keys + chunk * T * P, P);
  if (line >= T) {
    #pragma unroll 4
    for (int other = 0; other < T; other += 4) {
      const Four factors = weights[t][other / 4];
      #pragma unroll
      for (int e = 0; e < 4; e++) add(found, factors.v[e], writes[other + e][column / 4]);
    }
    *(Four*)(answers + place) = found;
  }
  __syncthreads();

  const float left = kept[chunk];
  for (int p = line; p < P; p += LINES) {
    Four next = {};
    add(next, left, s[p][column / 4]);
    #pragma unroll 8
    for (int t = 0; t < T; t++) add(next, rows[0][t][p / 4].v[p %% 4], writes[t][column / 4]);
    s[p][column / 4] = next;
  }
  __syncthreads();
}
for (int p = line; p < P; p += LINES) *(Four*)(next_memory + column_of(p)) = s[p][column / 4];
"""
