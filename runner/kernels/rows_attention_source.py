"""What `rows_attention_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

A block belongs to a row, a key/value head and a share of the row's positions. D/8 threads take one position
together, 16 bytes of it each; the block's groups of threads stride over its share and keep their own running
softmax (Milakov and Gimelshein 2018), for all query heads of that key/value head at once. At the end the groups are
joined, and where the positions were split over blocks (Dao et al., flash-decoding, 2023), a second kernel joins the
blocks. Everything between is float32.

Shapes: see `rows_attention.py`.
"""

HEADER = """
struct alignas(16) Eight%(kind)s { %(type)s v[8]; };
"""

ATTEND = """
constexpr int L = %(D)d / 8;              // threads of a position
constexpr int GROUPS = %(THREADS)d / L;
constexpr int AT_ONCE = 4;                // positions of a group under way
constexpr int WARPS = %(THREADS)d / 32;
constexpr int G = %(G)d;                  // query heads of this block
using Pack = Eight%(kind)s;

const int split = blockIdx.x, splits = gridDim.x, row = blockIdx.z;
const int first_head = blockIdx.y * G, kv_head = first_head / %(SHARED)d;
const int thread = threadIdx.x, part = thread %% L, group = thread / L;

const %(type)s* own_keys = k0;
const %(type)s* own_values = v0;
switch (row) { %(cases)s }
const int start = table[row * 3], end = table[row * 3 + 1], room = table[row * 3 + 2];
const int place = places[row], lane = place - place %% %(LANE)d;
const int total = end + place - lane + 1;
const int oldest = %(WINDOW)d > 0 ? max(0, total - %(WINDOW)d) : 0;
const int share = max(%(SHARE)d, (total - oldest + splits - 1) / splits);
const int low = oldest + split * share, high = min(total, low + share);

float q[G][8], m[G], l[G], acc[G][8];
for (int g = 0; g < G; g++) {
  const Pack pack = *(const Pack*)(queries + ((size_t)row * %(H)d + first_head + g) * %(D)d + part * 8);
  for (int e = 0; e < 8; e++) { q[g][e] = (float)pack.v[e] * %(scale)s; acc[g][e] = 0.f; }
  m[g] = -INFINITY; l[g] = 0.f;
}

// All groups of a warp go round equally often, since they meet in its shuffles.
for (int round = low; round < high; round += GROUPS * AT_ONCE) {
  const int base = round + group;
  Pack keys[AT_ONCE], values[AT_ONCE];
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++) {
    const int p = min(base + u * GROUPS, high - 1);
    const bool far = p < end;
    const size_t at = far ? ((size_t)kv_head * room + (p - start)) * %(D)d + part * 8
                          : ((size_t)(lane + p - end) * %(K)d + kv_head) * %(D)d + part * 8;
    keys[u] = *(const Pack*)((far ? own_keys : lane_keys) + at);
    values[u] = *(const Pack*)((far ? own_values : lane_values) + at);
  }
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
}

__shared__ float all_m[WARPS][G], all_l[WARPS][G], all_acc[WARPS][G][%(D)d];
const int warp = thread / 32;
for (int g = 0; g < G; g++) {
  float most = m[g];
  for (int far = L; far < 32; far *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, far));
  const float kept = m[g] == -INFINITY ? 0.f : exp2f(m[g] - most);
  l[g] *= kept;
  for (int far = L; far < 32; far *= 2) l[g] += __shfl_xor_sync(0xffffffff, l[g], far);
  for (int e = 0; e < 8; e++) {
    acc[g][e] *= kept;
    for (int far = L; far < 32; far *= 2) acc[g][e] += __shfl_xor_sync(0xffffffff, acc[g][e], far);
    if (thread %% 32 < L) all_acc[warp][g][part * 8 + e] = acc[g][e];
  }
  if (thread %% 32 == 0) { all_m[warp][g] = most; all_l[warp][g] = l[g]; }
}
__syncthreads();
for (int i = thread; i < G * %(D)d; i += %(THREADS)d) {
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
  const size_t at = head * splits + split;
  if (splits == 1) {
    out[head * %(D)d + d] = (%(type)s)(found / sum);
  } else {
    share_found[at * %(D)d + d] = found;
    if (d == 0) { share_sums[at * 2] = most; share_sums[at * 2 + 1] = sum; }
  }
}
"""
SINK = """
  const float sink = (float)sinks[first_head + g] * 1.4426950408889634f;
  most = fmaxf(most, sink);
  sum = exp2f(sink - most);
"""

JOIN = """
const int d = threadIdx.x, row = blockIdx.z, first_head = blockIdx.y, g = 0;
const int splits = share_sums_shape[2];
const size_t head = (size_t)row * %(H)d + first_head;
float most = -INFINITY, sum = 0.f, found = 0.f;
for (int s = 0; s < splits; s++) most = fmaxf(most, share_sums[(head * splits + s) * 2]);
%(sink)s
for (int s = 0; s < splits; s++) {
  const float m = share_sums[(head * splits + s) * 2];
  const float kept = m == -INFINITY ? 0.f : exp2f(m - most);
  sum += kept * share_sums[(head * splits + s) * 2 + 1];
  found += kept * share_found[(head * splits + s) * %(D)d + d];
}
out[head * %(D)d + d] = (%(type)s)(found / sum);
"""
