"""What `delta_chunks_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape. All products are in
float32, since S is rounded at every chunk.

To prepare the chunks a block belongs to a row, a head and a chunk. It finds what each key is to each query and to
each key, then solves the triangular system for fresh writes and corrections at once: a thread has a column.

To go through them a block belongs to a row, a head and 16 columns of S, which it keeps in shared memory from the
first chunk to the last: a column depends on no other. A thread makes four columns of what a product gives. Rows in
shared memory have four numbers more than they need, so that threads that read eight of them at once find them in
different banks. What comes next is on its way, in registers, while a product goes on.

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

PREPARE = r"""
using namespace delta_chunks;
constexpr int P = %(P)d, Q = %(Q)d, T = %(T)d, THREADS = %(threads)d, FOURS = P / 4;
constexpr int TALL = T * T / THREADS;  // queries of a thread, and keys of which each is written
static_assert(T == 32);
const int thread = threadIdx.x, start = blockIdx.x * T, column = thread %% T, line = thread / T * TALL;
const size_t head = blockIdx.y, chunk = head * gridDim.x + blockIdx.x;  // of a row
const int there = min(T, length - start);  // positions; beyond, nothing fades and nothing is written

__shared__ Four all_keys[T][FOURS + 1], all_queries[T][FOURS + 1];
__shared__ Four alike[T][T / 4 + 1];
__shared__ float fades[T], rates[T], since_start[T], until_end[T];
for (int i = thread; i < T * FOURS; i += THREADS) {
  const size_t from = (head * length + start) * FOURS + i;
  const Four nothing = {};
  all_keys[i / FOURS][i %% FOURS] = i / FOURS < there ? ((const Four*)keys)[from] : nothing;
  all_queries[i / FOURS][i %% FOURS] = i / FOURS < there ? ((const Four*)queries)[from] : nothing;
}
if (thread < T) {
  const size_t from = head * length + start + thread;
  fades[thread] = thread < there ? decay[from] : 0.f;
  rates[thread] = thread < there ? rate[from] : 0.f;
}
__syncthreads();

// What (column, line + i] fades is summed up by itself: as a difference of two sums a small decay is lost.
float by_keys[TALL] = {}, by_queries[TALL] = {};
#pragma unroll 2
for (int p = 0; p < FOURS; p++) {
  const Four mine = all_keys[column][p];
  #pragma unroll
  for (int i = 0; i < TALL; i++) {
    const Four key = all_keys[line + i][p], query = all_queries[line + i][p];
    #pragma unroll
    for (int e = 0; e < 4; e++) {
      by_keys[i] += key.v[e] * mine.v[e];
      by_queries[i] += query.v[e] * mine.v[e];
    }
  }
}
#pragma unroll
for (int i = 0; i < TALL; i++) {
  const int t = line + i;
  float sum = 0.f;
  for (int other = column + 1; other <= t; other++) sum += fades[other];
  const float faded = column <= t ? expf(sum) : 0.f;
  alike[t][column / 4].v[column %% 4] = column < t ? rates[t] * by_keys[i] * faded : 0.f;
  scores[(chunk * T + t) * T + column] = column <= t ? by_queries[i] * faded : 0.f;
  if (t == T - 1) until_end[column] = faded;
}
if (thread < T) {
  float sum = 0.f;
  for (int other = 0; other <= thread; other++) sum += fades[other];
  since_start[thread] = expf(sum);
  if (thread == T - 1) kept[chunk] = since_start[thread];
}
__syncthreads();

for (int i = thread; i < T * FOURS; i += THREADS) {
  const int t = i / FOURS;
  Four query = all_queries[t][i %% FOURS], key = all_keys[t][i %% FOURS];
  #pragma unroll
  for (int e = 0; e < 4; e++) {
    query.v[e] *= since_start[t];
    key.v[e] *= until_end[t];
  }
  write_four(faded_queries + (chunk * T * FOURS + i) * 4, query);
  write_four(faded_keys + (chunk * T * FOURS + i) * 4, key);
}
for (int turn = 0; turn < (Q + P + THREADS - 1) / THREADS; turn++) {
  const int c = thread + turn * THREADS;
  float x[T] = {};
  #pragma unroll
  for (int t = 0; t < T; t++) {
    if (c < Q && t < there) x[t] = rates[t] * values[(head * length + start + t) * Q + c];
    if (c >= Q && c < Q + P) x[t] = rates[t] * since_start[t] * all_keys[t][(c - Q) / 4].v[(c - Q) %% 4];
  }
  #pragma unroll
  for (int t = 1; t < T; t++) {
    #pragma unroll
    for (int other = 0; other < t; other += 4) {
      const Four factors = alike[t][other / 4];
      #pragma unroll
      for (int e = 0; e < 4; e++)
        if (other + e < t) x[t] -= factors.v[e] * x[other + e];
    }
    __syncwarp();  // or factors would be read too early, more than there are registers for
  }
  float* const to = c < Q ? fresh + chunk * T * Q + c : corrected + chunk * T * P + c - Q;
  #pragma unroll
  for (int t = 0; t < T; t++)
    if (c < Q + P) to[t * (c < Q ? Q : P)] = x[t];
}
"""

THROUGH = r"""
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
