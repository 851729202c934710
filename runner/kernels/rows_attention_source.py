"""What `rows_attention_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

A block belongs to a row, a key/value head and a share of the row's positions. D/8 threads take one position
together, 16 bytes of it each; the block's groups of threads stride over its share and keep their own running
softmax (Milakov and Gimelshein 2018), for all query heads of that key/value head at once. At the end the groups are
joined, and where the positions were split over blocks (Dao et al., flash-decoding, 2023), the block that is done
last joins what all found. Everything between is float32.

What is new is turned, used and written to its place in the lanes by the blocks that look at it. A kernel's inputs
are not for writing, as MLX sees it: nothing else may read the lanes before this kernel is done (`cache/lanes.py`
waits).

Shapes: see `rows_attention.py`.
"""

from __future__ import annotations

HEADER = r"""
struct alignas(16) Eight%(kind)s { %(type)s v[8]; };
namespace rows_attention {
// Relaxed, since the compiler moves plain loads down to where they are used, and then few are under way at once.
template <typename Pack> __device__ inline Pack read(const void* from) {
  Pack pack;
  uint4* parts = (uint4*)&pack;
  #pragma unroll
  for (int i = 0; i < sizeof(Pack) / 16; i++)
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%%0, %%1, %%2, %%3}, [%%4];"
                 : "=r"(parts[i].x), "=r"(parts[i].y), "=r"(parts[i].z), "=r"(parts[i].w)
                 : "l"((const uint4*)from + i));
  return pack;
}
}
"""

ATTEND = r"""
constexpr int L = %(D)d / 8;              // threads of a position
constexpr int GROUPS = %(threads)d / L;
constexpr int AT_ONCE = %(at_once)d;      // positions of a group under way
constexpr int WARPS = %(threads)d / 32;
constexpr int G = %(G)d;                  // query heads of this block
using Pack = Eight%(kind)s;
using rows_attention::read;

const int split = blockIdx.x, splits = gridDim.x, row = blockIdx.z;
const int first_head = blockIdx.y * G, kv_head = first_head / %(shared)d;
const int thread = threadIdx.x, part = thread %% L, group = thread / L, d0 = part * 8;

const %(type)s* own_keys = k0;
const %(type)s* own_values = v0;
%(which)s
const int lane = place - place %% %(lane)d;
const int total = end + place - lane + 1, newest = total - 1;
const int oldest = %(window)d > 0 ? max(0, total - %(window)d) : 0;
const int share = max(%(share)d, (total - oldest + splits - 1) / splits);
const int low = oldest + split * share, high = min(total, low + share);

Pack keys[AT_ONCE], values[AT_ONCE];
const auto ask = [&](int round, Pack (&to)[AT_ONCE], const %(type)s* own, const %(type)s* in_lanes) {
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++) {
    const int p = min(round + group + u * GROUPS, high - 1);
    to[u] = read<Pack>(p < end ? own + ((size_t)kv_head * room + (p - start)) * %(D)d + d0
                               : in_lanes + ((size_t)(lane + p - end) * %(K)d + kv_head) * %(D)d + d0);
  }
};
%(first)s

float q[G][8], m[G], l[G], acc[G][8] = {};
%(turn)s
#pragma unroll
for (int g = 0; g < G; g++) {
  %(query)s
  #pragma unroll
  for (int e = 0; e < 8; e++) q[g][e] *= %(scale)s;
  m[g] = -INFINITY; l[g] = 0.f;
}
%(new)s

// All groups of a warp go round equally often, since they meet in its shuffles.
for (int round = low; round < high; round += GROUPS * AT_ONCE) {
  const int base = round + group, next = round + GROUPS * AT_ONCE;
  %(now)s
  %(newest)s
  float score[AT_ONCE][G];
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++) {
    #pragma unroll
    for (int g = 0; g < G; g++) {
      float sum = 0.f;
      #pragma unroll
      for (int e = 0; e < 8; e++) sum += q[g][e] * (float)keys[u].v[e];
      score[u][g] = sum;
    }
  }
  %(next_keys)s
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++) {
    #pragma unroll
    for (int g = 0; g < G; g++) {
      #pragma unroll
      for (int far = L / 2; far > 0; far /= 2) score[u][g] += __shfl_xor_sync(0xffffffff, score[u][g], far);
      if (base + u * GROUPS >= high) score[u][g] = -INFINITY;
    }
  }
  #pragma unroll
  for (int g = 0; g < G; g++) {
    float most = m[g];
    #pragma unroll
    for (int u = 0; u < AT_ONCE; u++) most = fmaxf(most, score[u][g]);
    const float shift = most == -INFINITY ? 0.f : most;
    const float kept = exp2f(m[g] - shift);
    m[g] = most;
    l[g] *= kept;
    #pragma unroll
    for (int e = 0; e < 8; e++) acc[g][e] *= kept;
    #pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      const float weight = exp2f(score[u][g] - shift);
      l[g] += weight;
      #pragma unroll
      for (int e = 0; e < 8; e++) acc[g][e] += weight * (float)values[u].v[e];
    }
  }
  %(next_values)s
}

__shared__ float all_m[WARPS][G], all_l[WARPS][G], all_acc[WARPS][G][%(D)d];
__shared__ bool is_last;
const int warp = thread / 32;
#pragma unroll
for (int g = 0; g < G; g++) {
  float most = m[g];
  for (int far = L; far < 32; far *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, far));
  const float kept = m[g] == -INFINITY ? 0.f : exp2f(m[g] - most);
  l[g] *= kept;
  for (int far = L; far < 32; far *= 2) l[g] += __shfl_xor_sync(0xffffffff, l[g], far);
  #pragma unroll
  for (int e = 0; e < 8; e++) {
    acc[g][e] *= kept;
    for (int far = L; far < 32; far *= 2) acc[g][e] += __shfl_xor_sync(0xffffffff, acc[g][e], far);
    if (thread %% 32 < L) all_acc[warp][g][d0 + e] = acc[g][e];
  }
  if (thread %% 32 == 0) { all_m[warp][g] = most; all_l[warp][g] = l[g]; }
}
__syncthreads();
for (int i = thread; i < G * %(D)d; i += %(threads)d) {
  const int g = i / %(D)d, d = i %% %(D)d;
  const size_t head = (size_t)row * %(H)d + first_head + g;
  float most = -INFINITY, sum = 0.f, found = 0.f;
  for (int w = 0; w < WARPS; w++) most = fmaxf(most, all_m[w][g]);
  if (splits == 1) { %(sink)s }
  for (int w = 0; w < WARPS; w++) {
    const float kept = all_m[w][g] == -INFINITY ? 0.f : exp2f(all_m[w][g] - most);
    sum += kept * all_l[w][g];
    found += kept * all_acc[w][g][d];
  }
  if (splits == 1) {
    out[head * %(D)d + d] = (%(type)s)(found / sum%(gate)s);
  } else {
    const size_t at = head * splits + split;
    share_found[at * %(D)d + d] = found;
    if (d == 0) { share_sums[at * 2] = most; share_sums[at * 2 + 1] = sum; }
  }
}
if (splits == 1) return;
__threadfence();
__syncthreads();
int* const done = (int*)waiting + row * gridDim.y + blockIdx.y;
if (thread == 0) is_last = atomicAdd(done, 1) == splits - 1;
__syncthreads();
if (!is_last) return;
__threadfence();
if (thread == 0) *done = 0;
for (int i = thread; i < G * %(D)d; i += %(threads)d) {
  const int g = i / %(D)d, d = i %% %(D)d;
  const size_t head = (size_t)row * %(H)d + first_head + g;
  float most = -INFINITY, sum = 0.f, found = 0.f;
  #pragma unroll 4
  for (int s = 0; s < splits; s++) most = fmaxf(most, __ldcg(share_sums + (head * splits + s) * 2));
  %(sink)s
  #pragma unroll 4
  for (int s = 0; s < splits; s++) {
    const float m = __ldcg(share_sums + (head * splits + s) * 2);
    const float kept = m == -INFINITY ? 0.f : exp2f(m - most);
    sum += kept * __ldcg(share_sums + (head * splits + s) * 2 + 1);
    found += kept * __ldcg(share_found + (head * splits + s) * %(D)d + d);
  }
  out[head * %(D)d + d] = (%(type)s)(found / sum%(gate)s);
}
"""
# A lone row's numbers are the kernel's own.
OF_SEVERAL = """
switch (row) { %(cases)s }
const int start = table[row * 4], end = table[row * 4 + 1], room = table[row * 4 + 2];
const int place = table[row * 4 + 3] + step;
"""
# A lone row has the processors for itself: its keys and values are asked for before there are queries, and those of
# the next round while this one is computed. Blocks of several rows do better with fewer registers, and so with more
# blocks at once.
AHEAD = {
    "first": "if (low < high) { ask(low, keys, own_keys, lane_keys); ask(low, values, own_values, lane_values); }",
    "now": "",
    "next_keys": "if (next < high) ask(next, keys, own_keys, lane_keys);",
    "next_values": "if (next < high) ask(next, values, own_values, lane_values);",
}
NOW = dict.fromkeys(AHEAD, "") | {
    "now": "ask(round, keys, own_keys, lane_keys); ask(round, values, own_values, lane_values);"
}
SINK = """
  const float sink = (float)sinks[first_head + g] * 1.4426950408889634f;
  most = fmaxf(most, sink);
  sum = exp2f(sink - most);
"""

# How a query comes, where it comes alone.
QUERY = """
  const Pack pack = *(const Pack*)(queries + ((size_t)row * %(H)d + first_head + g) * %(D)d + d0);
  for (int e = 0; e < 8; e++) q[g][e] = (float)pack.v[e];
"""
NEW = """
  const size_t from = ((size_t)row * %(K)d + kv_head) * %(D)d + d0;
  const Pack key = *(const Pack*)(new_keys + from), value = *(const Pack*)(new_values + from);
"""

# And where all heads come joined.
TURN = """
const %(type)s* mine = joined + (size_t)row * (%(each)d * %(H)d + 2 * %(K)d) * %(D)d;
constexpr int HALF = %(dims)d / 2;
float cosine[8], sine[8];
#pragma unroll
for (int e = 0; e < 8; e++) {
  cosine[e] = 1.f; sine[e] = 0.f;
  if (d0 < 2 * HALF) sincosf((float)newest * speeds[(d0 + e) %% HALF], &sine[e], &cosine[e]);
  if (d0 < HALF) sine[e] = -sine[e];
}
const int partner = d0 < HALF ? d0 + HALF : d0 < 2 * HALF ? d0 - HALF : d0;
// All that is joined is asked for at once. Of the key only the warp that writes it does.
Pack ones[G], twos[G], key_one = {}, key_two = {}, new_one = {};
const bool has_new = low <= newest && newest < high && thread < 32;
const %(type)s* const key_from = mine + (%(each)d * %(H)d + kv_head) * %(D)d;
#pragma unroll
for (int g = 0; g < G; g++) {
  ones[g] = read<Pack>(mine + (first_head + g) * %(each)d * %(D)d + d0);
  twos[g] = read<Pack>(mine + (first_head + g) * %(each)d * %(D)d + partner);
}
if (has_new) {
  key_one = read<Pack>(key_from + d0);
  key_two = read<Pack>(key_from + partner);
  new_one = read<Pack>(key_from + %(K)d * %(D)d + d0);
}
auto turned = [&](const Pack& one, const Pack& two, const %(norm_type)s* norm, float (&to)[8]) {
  float a[8], b[8];
  #pragma unroll
  for (int e = 0; e < 8; e++) { a[e] = (float)one.v[e]; b[e] = (float)two.v[e]; }
  %(head_norm)s
  #pragma unroll
  for (int e = 0; e < 8; e++) to[e] = a[e] * cosine[e] + b[e] * sine[e];
};
"""
HEAD_NORM = """
  float sum = 0.f;
  #pragma unroll
  for (int e = 0; e < 8; e++) sum += a[e] * a[e];
  #pragma unroll
  for (int far = L / 2; far > 0; far /= 2) sum += __shfl_xor_sync(0xffffffff, sum, far);
  const float factor = rsqrtf(sum / %(D)d + %(eps)s);
  #pragma unroll
  for (int e = 0; e < 8; e++) {
    a[e] *= factor * (float)norm[d0 + e];
    b[e] *= factor * (float)norm[partner + e];
  }
"""
GATE = " / (1.f + __expf(-(float)mine[((first_head + g) * 2 + 1) * %(D)d + d]))"
JOINT_QUERY = "turned(ones[g], twos[g], %(query_norm)s, q[g]);"
JOINT_NEW = """
  float turned_key[8];
  turned(key_one, key_two, %(key_norm)s, turned_key);
  Pack key;
  #pragma unroll
  for (int e = 0; e < 8; e++) key.v[e] = (%(type)s)turned_key[e];
  const Pack value = new_one;
"""
# The first warp of a block whose share has the new position keeps it and writes it.
WRITE = """
__shared__ Pack new_key[L], new_value[L];
if (low <= newest && newest < high && thread < 32) {
  %(made)s
  if (thread < L) {
    new_key[part] = key; new_value[part] = value;
    const size_t to = ((size_t)place * %(K)d + kv_head) * %(D)d + d0;
    *(Pack*)((%(type)s*)lane_keys + to) = key;
    *(Pack*)((%(type)s*)lane_values + to) = value;
  }
}
__syncthreads();
"""
# What was asked for in its place was not written yet.
NEWEST = """
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++)
    if (min(base + u * GROUPS, high - 1) == newest) { keys[u] = new_key[part]; values[u] = new_value[part]; }
"""
