"""What `delta_chunks_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

A block belongs to a row, a head and 16 columns of S, which it keeps in shared memory from the first chunk to the
last: a column depends on no other. All products are in float32, since S is rounded at every chunk. A thread makes
four columns of what a product gives. Rows in shared memory have four numbers more than they need, so that threads
that read eight of them at once find them in different banks. What comes next is on its way, in registers, while a
product goes on.

Shapes: see `delta_chunks.py`.
"""

from __future__ import annotations

HEADER = r"""
namespace delta_chunks {
struct alignas(16) Four { float v[4]; };
// All sixteen bytes at once, which the compiler does not see by itself.
__device__ inline void write_four(float* to, const Four& four) {
  const float (&v)[4] = four.v;
  __stcg((uint4*)to, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                                __float_as_uint(v[3])));
}
}
"""

BODY = r"""
using namespace delta_chunks;
constexpr int P = %(P)d, Q = %(Q)d, T = %(T)d, COLS = %(columns)d;
constexpr int THREADS = %(threads)d, QUADS = COLS / 4, LINES = THREADS / QUADS;
constexpr int WIDE = (T * P / 4 + THREADS - 1) / THREADS, SQUARE = (T * T / 4 + THREADS - 1) / THREADS;
static_assert(LINES == 2 * T);
const int thread = threadIdx.x, quad = thread %% QUADS, line = thread / QUADS, t = line %% T;
const int first = blockIdx.x * COLS + quad * 4;
const size_t head = blockIdx.y;  // of a row
const bool writes_it = line < T;  // the first half of the lines finds what is written, the second what is answered

__shared__ Four s[P][QUADS], writes[T][QUADS], rows[2][T][P / 4 + 1], weights[T][T / 4 + 1];
auto ask = [&](auto& to, const float* from, int fours) {
  #pragma unroll
  for (int u = 0; u < sizeof(to) / sizeof(Four); u++) {
    const int i = thread + u * THREADS;
    if (i < T * fours) to[u] = ((const Four*)from)[i];
  }
};
auto keep = [&](auto& to, const auto& from, int fours) {
  #pragma unroll
  for (int u = 0; u < sizeof(from) / sizeof(Four); u++) {
    const int i = thread + u * THREADS;
    if (i < T * fours) to[i / fours][i %% fours] = from[u];
  }
};
auto add = [](Four& to, float factor, const Four& more) {
  #pragma unroll
  for (int e = 0; e < 4; e++) to.v[e] += factor * more.v[e];
};
auto column_of = [&](int p) { return (head * P + p) * Q + first; };
auto place_of = [&](size_t chunk) { return (chunk * T + t) * Q + first; };

Four corrections[WIDE], questions[WIDE], shares[SQUARE], sum;
auto ask_for = [&](size_t chunk) {
  ask(corrections, corrected + chunk * T * P, P / 4);
  ask(questions, queries + chunk * T * P, P / 4);
  ask(shares, scores + chunk * T * T, T / 4);
  if (writes_it) sum = *(const Four*)(fresh + place_of(chunk));
};
ask_for(head * chunks);
for (int p = line; p < P; p += LINES) s[p][quad] = *(const Four*)(memory + column_of(p));

for (int n = 0; n < chunks; n++) {
  const size_t chunk = head * chunks + n;
  keep(rows[0], corrections, P / 4);
  keep(rows[1], questions, P / 4);
  keep(weights, shares, T / 4);
  __syncthreads();

  Four newest[WIDE], found = {};
  ask(newest, keys + chunk * T * P, P / 4);
  const float left = kept[chunk];
  #pragma unroll 4
  for (int p = 0; p < P; p += 4) {
    const Four factors = rows[line / T][t][p / 4];
    #pragma unroll
    for (int e = 0; e < 4; e++) add(found, factors.v[e], s[p + e][quad]);
  }
  if (writes_it) {
    add(sum, -1.f, found);
    writes[t][quad] = sum;
  }
  __syncthreads();

  keep(rows[0], newest, P / 4);
  if (n + 1 < chunks) ask_for(chunk + 1);
  if (!writes_it) {
    #pragma unroll 4
    for (int other = 0; other < T; other += 4) {
      const Four factors = weights[t][other / 4];
      #pragma unroll
      for (int e = 0; e < 4; e++) add(found, factors.v[e], writes[other + e][quad]);
    }
    write_four(answers + place_of(chunk), found);
  }
  __syncthreads();

  for (int p = line; p < P; p += LINES) {
    Four next = {};
    add(next, left, s[p][quad]);
    #pragma unroll 8
    for (int other = 0; other < T; other++) add(next, rows[0][other][p / 4].v[p %% 4], writes[other][quad]);
    s[p][quad] = next;
  }
  __syncthreads();
}
for (int p = line; p < P; p += LINES) write_four(next_memory + column_of(p), s[p][quad]);
"""
