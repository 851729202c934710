"""How the kernels of `rows_attention_source.py` come to queries and to what is new. D/8 threads turn a head or take
as it is, eight numbers of it each. Everything is float32 until it is written.

Shapes: see `rows_attention.py`.
"""

from __future__ import annotations

# How a query comes, where it comes alone.
QUERY = """
  const Pack pack = *(const Pack*)(queries + ((size_t)row * %(H)d + head) * %(D)d + d0);
  for (int e = 0; e < 8; e++) q[i][e] = (float)pack.v[e];
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
Pack ones[TURNED], twos[TURNED], key_one = {}, key_two = {}, new_one = {};
const bool has_new = low <= newest && newest < high && thread < 32;
const %(type)s* const key_from = mine + (%(each)d * %(H)d + kv_head) * %(D)d;
#pragma unroll
for (int i = 0; i < TURNED; i++) {
  const %(type)s* const from = mine + (first_head + turned_head(i)) * %(each)d * %(D)d;
  ones[i] = read<Pack>(from + d0);
  twos[i] = read<Pack>(from + partner);
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
JOINT_QUERY = "turned(ones[i], twos[i], %(query_norm)s, q[i]);"
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
"""
