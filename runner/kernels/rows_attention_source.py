"""What both forms have in common. `rows_attention_program.py` fills in the words in %(parentheses)s for each shape.

A block belongs to a row, a key/value head and a share of the row's positions. Its warps divide those among them and
keep their own running softmax (Milakov and Gimelshein 2018), for all query heads of that key/value head at once,
on tensor cores (`rows_attention_mma_source.py`) or without (`rows_attention_threads_source.py`). At the end the
warps are joined, and where the positions were split over blocks (Dao et al., flash-decoding, 2023), the block that
is done last joins what all found. Sums are float32.

What is new is turned, used and written to its place in the lanes by the blocks that look at it
(`rows_attention_heads_source.py`). A kernel's inputs are not for writing, as MLX sees it: nothing else may read the
lanes before this kernel is done (`cache/lanes.py` waits).

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
constexpr int L = %(D)d / 8;              // threads of a position or of a head, each with 16 bytes of it
constexpr int GROUPS = %(threads)d / L;
constexpr int WARPS = %(threads)d / 32;
constexpr int G = %(G)d;                  // query heads of this block
using Pack = Eight%(kind)s;
using rows_attention::read;

const int split = blockIdx.x, splits = gridDim.x, row = blockIdx.z;
const int first_head = blockIdx.y * G, kv_head = first_head / %(shared)d;
const int thread = threadIdx.x, part = thread %% L, group = thread / L, d0 = part * 8, warp = thread / 32;

const %(type)s* own_keys = k0;
const %(type)s* own_values = v0;
%(which)s
const int lane = place - place %% %(lane)d;
const int total = end + place - lane + 1, newest = total - 1;
const int oldest = %(window)d > 0 ? max(0, total - %(window)d) : 0;
const int share = max(%(share)d, (total - oldest + splits - 1) / splits);
const int low = oldest + split * share, high = min(total, low + share);
// Where position 0 would be, if all were the row's own, or all were in its lane.
const long long own_first = ((long long)kv_head * room - start) * %(D)d;
const long long lane_first = ((long long)(lane - end) * %(K)d + kv_head) * %(D)d;
const auto numbers_of = [&](int position, const %(type)s* own, const %(type)s* in_lanes) {
  const bool is_own = position < end;
  const long long apart = is_own ? %(D)d : %(K)d * %(D)d;
  return (is_own ? own + own_first : in_lanes + lane_first) + position * apart;
};

%(ask)s
%(first)s

float q[TURNED][8];
%(turn)s
#pragma unroll
for (int i = 0; i < TURNED; i++) {
  const int head = first_head + turned_head(i);
  %(query)s
}
%(new)s
__shared__ float all_m[WARPS][G], all_l[WARPS][G], all_acc[WARPS][G][%(D)d + 1];
__shared__ bool is_last;
%(rounds)s

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
// What is known of a head's shares is asked for at once, by a warp, and so is what several of them found.
__shared__ float kept_of[G][%(most_splits)d], sums[G];
for (int g = warp; g < G; g += WARPS) {
  const size_t head = (size_t)row * %(H)d + first_head + g;
  float most = -INFINITY, sum = 0.f, of_shares = 0.f;
  float2 known[%(most_splits)d / 32];
  #pragma unroll
  for (int j = 0; j < %(most_splits)d / 32; j++) {
    const int s = j * 32 + thread %% 32;
    known[j] = s < splits ? __ldcg((const float2*)share_sums + head * splits + s) : make_float2(-INFINITY, 0.f);
    most = fmaxf(most, known[j].x);
  }
  for (int far = 16; far > 0; far /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, far));
  %(sink)s
  #pragma unroll
  for (int j = 0; j < %(most_splits)d / 32; j++) {
    const float kept = known[j].x == -INFINITY ? 0.f : exp2f(known[j].x - most);
    kept_of[g][j * 32 + thread %% 32] = kept;
    of_shares += kept * known[j].y;
  }
  for (int far = 16; far > 0; far /= 2) of_shares += __shfl_xor_sync(0xffffffff, of_shares, far);
  if (thread %% 32 == 0) sums[g] = sum + of_shares;
}
__syncthreads();
for (int i = thread * 4; i < G * %(D)d; i += %(threads)d * 4) {
  const int g = i / %(D)d, first = i %% %(D)d;
  const size_t head = (size_t)row * %(H)d + first_head + g;
  const float4* const from = (const float4*)(share_found + head * splits * %(D)d + first);
  float found[4] = {};
  #pragma unroll 8
  for (int s = 0; s < splits; s++) {
    const float4 of_share = __ldcg(from + s * (%(D)d / 4));
    found[0] += kept_of[g][s] * of_share.x;
    found[1] += kept_of[g][s] * of_share.y;
    found[2] += kept_of[g][s] * of_share.z;
    found[3] += kept_of[g][s] * of_share.w;
  }
  #pragma unroll
  for (int e = 0; e < 4; e++) {
    const int d = first + e;
    out[head * %(D)d + d] = (%(type)s)(found[e] / sums[g]%(gate)s);
  }
}
"""
# A lone row's numbers are the kernel's own.
OF_SEVERAL = """
switch (row) { %(cases)s }
const int start = table[row * 4], end = table[row * 4 + 1], room = table[row * 4 + 2];
const int place = table[row * 4 + 3] + step;
"""
# The first keys and values are asked for before there are queries, and those of the next round while this one is
# computed.
AHEAD = {
    "first": "if (begin < high) { ask_keys(begin); ask_values(begin); }",
    "now": "",
    "next_keys": "if (next < high) ask_keys(next);",
    "next_values": "if (next < high) ask_values(next);",
}
# Without tensor cores blocks of several rows do better with fewer registers, and so with more blocks at once.
NOW = dict.fromkeys(AHEAD, "") | {"now": "ask_keys(round); ask_values(round);"}
SINK = """
  const float sink = (float)sinks[first_head + g] * 1.4426950408889634f;
  most = fmaxf(most, sink);
  sum = exp2f(sink - most);
"""
GATE = " / (1.f + __expf(-(float)mine[((first_head + g) * 2 + 1) * %(D)d + d]))"
