"""What `delta_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

A block belongs to a row and a head of values, and holds the head's S in registers: it asks for S before it waits
for anything else. A thread has four neighbouring columns of some rows of S. Meanwhile the block makes the head's
query, key and value out of the convolution; heads that share a key each make it for themselves.

S is gone through once. With u = k S and w = q S, what is written is d = b (v - a u), the answer is a w + (q k) d,
and S becomes a S + k^T d, each column by itself. The sums over rows go through shared memory, always in the same
order, so a row's bits do not depend on how many rows there are. Everything between is float32.

Shapes: see `delta.py`.
"""

from __future__ import annotations

HEADER = r"""
namespace delta {
struct alignas(16) Four { float v[4]; };
// Relaxed, since the compiler moves plain loads down to where they are used, and then few are under way at once.
__device__ inline Four read_four(const float* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%%0, %%1, %%2, %%3}, [%%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return Four{{__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)}};
}
// All sixteen bytes at once, which the compiler does not see by itself.
__device__ inline void write_four(float* to, const Four& four) {
  const float (&v)[4] = four.v;
  __stcg((uint4*)to, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                                __float_as_uint(v[3])));
}
__device__ inline float sum_of_warp(float v) {
  #pragma unroll
  for (int far = 16; far > 0; far /= 2) v += __shfl_xor_sync(0xffffffff, v, far);
  return v;
}
__device__ inline float sigmoid(float v) { return 1.f / (1.f + __expf(-v)); }
}
"""

BODY = r"""
using namespace delta;
constexpr int H = %(H)d, P = %(P)d, Q = %(Q)d, W = %(W)d, C = %(C)d, N = %(N)d;
constexpr int THREADS = %(threads)d, WARPS = THREADS / 32;
constexpr int QUADS = Q / 4, GROUPS = THREADS / QUADS;  // threads of a row of S, and rows at once
constexpr int ROWS = (P + GROUPS - 1) / GROUPS;         // of a thread
const int head = blockIdx.x, row = blockIdx.y, thread = threadIdx.x;
const int key_head = head / %(served)d, neighbour = head %% %(served)d;
const __nv_bfloat16* mine = joined + (size_t)row * N;

const int group = thread / QUADS, column = thread %% QUADS * 4;
const size_t begin = ((size_t)row * H + head) * P * Q;
auto is_mine = [&](int i) {
  return (GROUPS * QUADS == THREADS || group < GROUPS) && ((i + 1) * GROUPS <= P || group + i * GROUPS < P);
};
auto place = [&](int i) { return begin + (size_t)(group + i * GROUPS) * Q + column; };
Four s[ROWS] = {};
#pragma unroll
for (int i = 0; i < ROWS; i++)
  if (is_mine(i)) s[i] = read_four(memory + place(i));

// All that is read, before anything is written: the compiler moves no read before a write.
constexpr int CHANNELS = 2 * P + Q, CHANNEL_TURNS = (CHANNELS + THREADS - 1) / THREADS;
constexpr int ANSWER_TURNS = (Q + THREADS - 1) / THREADS;
const float raw_rate = mine[%(from_rate)s], raw_decay = mine[%(from_decay)s];
const float bias = decay_bias[head], speed = decay_speed[head];
float gates[ANSWER_TURNS], norms[ANSWER_TURNS];
#pragma unroll
for (int turn = 0; turn < ANSWER_TURNS; turn++) {
  const int q = min(thread + turn * THREADS, Q - 1);
  gates[turn] = mine[%(from_gate)s + q];
  norms[turn] = norm[q];
}
__nv_bfloat16 seen[CHANNEL_TURNS][W], taps[CHANNEL_TURNS][W];
auto channel_of = [&](int c) {
  return c < P ? key_head * P + c : c < 2 * P ? %(keys)d + key_head * P + c - P : %(values)d + head * Q + c - 2 * P;
};
auto tail_of = [&](int c) { return (size_t)row * (W - 1) * C + channel_of(c); };
#pragma unroll
for (int turn = 0; turn < CHANNEL_TURNS; turn++) {
  const int c = min(thread + turn * THREADS, CHANNELS - 1);
  #pragma unroll
  for (int tap = 0; tap < W; tap++) {
    if (tap < W - 1) seen[turn][tap] = tail[tail_of(c) + (size_t)tap * C];
    taps[turn][tap] = convolution[(size_t)channel_of(c) * W + tap];
  }
  const int part = c < P ? %(from_query)s : c < 2 * P ? %(from_key)s - P : %(from_value)s - 2 * P;
  seen[turn][W - 1] = mine[part + c];
}

// The head's query, key and value, behind each other.
__shared__ float channels[CHANNELS];
#pragma unroll
for (int turn = 0; turn < CHANNEL_TURNS; turn++) {
  const int c = thread + turn * THREADS;
  if (c >= CHANNELS) continue;
  float sum = 0.f;
  #pragma unroll
  for (int tap = 0; tap < W; tap++) {
    sum += (float)seen[turn][tap] * (float)taps[turn][tap];
    const bool is_ours = tap > 0 && (c >= 2 * P || neighbour == 0);  // to write
    if (is_ours) next_tail[tail_of(c) + (size_t)(tap - 1) * C] = seen[turn][tap];
  }
  channels[c] = sum * sigmoid(sum);
}
const float rate = sigmoid(raw_rate), step = raw_decay + bias;
const float kept = expf(-speed * (fmaxf(step, 0.f) + log1pf(expf(-fabsf(step)))));
__syncthreads();

// Queries and keys of length 1. Each warp finds their lengths for itself, and what the query is to the key.
const float* const queries = channels;
const float* const keys = channels + P;
const float* const values = channels + 2 * P;
float query_length = 0.f, key_length = 0.f, alike = 0.f;
for (int p = thread %% 32; p < P; p += 32) {
  query_length += queries[p] * queries[p];
  key_length += keys[p] * keys[p];
  alike += queries[p] * keys[p];
}
const float query_scale = rsqrtf(sum_of_warp(query_length) + %(length_eps)s) * %(scale)s;
const float key_scale = rsqrtf(sum_of_warp(key_length) + %(length_eps)s);
alike = sum_of_warp(alike) * query_scale * key_scale;

Four u = {}, w = {};
#pragma unroll
for (int i = 0; i < ROWS; i++) {
  if (!is_mine(i)) continue;
  const float key = keys[group + i * GROUPS] * key_scale, query = queries[group + i * GROUPS] * query_scale;
  #pragma unroll
  for (int e = 0; e < 4; e++) {
    u.v[e] += key * s[i].v[e];
    w.v[e] += query * s[i].v[e];
  }
}
__shared__ Four all_u[GROUPS][QUADS], all_w[GROUPS][QUADS];
if (group < GROUPS) {
  all_u[group][column / 4] = u;
  all_w[group][column / 4] = w;
}
__syncthreads();

__shared__ float changes[Q], lengths[WARPS];
float answers[ANSWER_TURNS], length = 0.f;
#pragma unroll
for (int turn = 0; turn < ANSWER_TURNS; turn++) {
  const int q = thread + turn * THREADS;
  answers[turn] = 0.f;
  if (q >= Q) continue;
  float under_key = 0.f, under_query = 0.f;
  #pragma unroll
  for (int g = 0; g < GROUPS; g++) {
    under_key += all_u[g][q / 4].v[q %% 4];
    under_query += all_w[g][q / 4].v[q %% 4];
  }
  const float change = rate * (values[q] - kept * under_key);
  changes[q] = change;
  answers[turn] = kept * under_query + alike * change;
  length += answers[turn] * answers[turn];
}
length = sum_of_warp(length);
if (thread %% 32 == 0) lengths[thread / 32] = length;
__syncthreads();

#pragma unroll
for (int i = 0; i < ROWS; i++) {
  if (!is_mine(i)) continue;
  const float key = keys[group + i * GROUPS] * key_scale;
  #pragma unroll
  for (int e = 0; e < 4; e++) s[i].v[e] = kept * s[i].v[e] + key * changes[column + e];
  write_four(next_memory + place(i), s[i]);
}
length = 0.f;
#pragma unroll
for (int i = 0; i < WARPS; i++) length += lengths[i];
const float factor = rsqrtf(length / Q + %(eps)s);
#pragma unroll
for (int turn = 0; turn < ANSWER_TURNS; turn++) {
  const int q = thread + turn * THREADS;
  if (q >= Q) continue;
  const float opened = gates[turn] * sigmoid(gates[turn]);
  out[((size_t)row * H + head) * Q + q] = (__nv_bfloat16)(answers[turn] * factor * norms[turn] * opened);
}
"""

# Where the parts of a head begin in what a layer projects.
APART = {
    "from_query": "key_head * P",
    "from_key": "%(keys)d + key_head * P",
    "from_value": "%(values)d + head * Q",
    "from_gate": "C + head * Q",
    "from_rate": "C + H * Q + head",
    "from_decay": "C + H * Q + H + head",
}
GROUPED = {
    "from_query": "key_head * %(group)d",
    "from_key": "key_head * %(group)d + P",
    "from_value": "key_head * %(group)d + 2 * P + neighbour * Q",
    "from_gate": "key_head * %(group)d + 2 * P + (%(served)d + neighbour) * Q",
    "from_rate": "C + H * Q + key_head * 2 * %(served)d + neighbour",
    "from_decay": "C + H * Q + (key_head * 2 + 1) * %(served)d + neighbour",
}
