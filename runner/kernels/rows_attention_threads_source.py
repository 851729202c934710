"""The form of `rows_attention_source.py` without tensor cores: D/8 threads take one position together, eight of its
numbers each, and the block's groups of threads stride over its share. Everything between is float32.

Shapes: see `rows_attention.py`.
"""

from __future__ import annotations

ASK = r"""
constexpr int AT_ONCE = %(at_once)d;      // positions of a group under way
constexpr int STEP = GROUPS * AT_ONCE;
constexpr int TURNED = G;
const auto turned_head = [](int i) { return i; };
const int begin = low;
Pack keys[AT_ONCE], values[AT_ONCE];
const auto ask = [&](int round, Pack (&to)[AT_ONCE], const %(type)s* own, const %(type)s* in_lanes) {
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++)
    to[u] = read<Pack>(numbers_of(min(round + group + u * GROUPS, high - 1), own, in_lanes) + d0);
};
const auto ask_keys = [&](int round) { ask(round, keys, own_keys, lane_keys); };
const auto ask_values = [&](int round) { ask(round, values, own_values, lane_values); };
"""
ROUNDS = r"""
float m[G], l[G], acc[G][8] = {};
#pragma unroll
for (int g = 0; g < G; g++) {
  #pragma unroll
  for (int e = 0; e < 8; e++) q[g][e] *= %(scale)s;
  m[g] = -INFINITY; l[g] = 0.f;
}
__syncthreads();
// All groups of a warp go round equally often, since they meet in its shuffles.
for (int round = begin; round < high; round += STEP) {
  const int base = round + group, next = round + STEP;
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
"""
# What was asked for in its place was not written yet.
NEWEST = """
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++)
    if (min(base + u * GROUPS, high - 1) == newest) { keys[u] = new_key[part]; values[u] = new_value[part]; }
"""
