"""What `choosing_cuda.py` compiles. Words in %(parentheses)s are filled in for each shape.

Blocks share a row: each finds the largest of its part, and the one that is done last joins what all found. A logit
that is no number, or infinite, counts as infinity, which is the largest of all: so the largest one says whether the
row is broken.

Shapes: see `choosing.py`.
"""

from __future__ import annotations

HEADER = "struct alignas(16) Pack { %(type)s v[16 / sizeof(%(type)s)]; };"

LARGEST = r"""
constexpr int PACK = 16 / sizeof(%(type)s);
constexpr int THREADS = %(threads)d, WARPS = THREADS / 32;
constexpr int AT_ONCE = 4;                // packs of a thread under way
constexpr unsigned NONE = %(broken)du;

const int row = blockIdx.y, split = blockIdx.x, splits = gridDim.x, thread = threadIdx.x;
const %(type)s* const mine = logits + (size_t)row * V;
float most = -INFINITY;
unsigned at = NONE;
// A thread's ids ascend.
auto look = [&](%(type)s logit, int id) {
  const float value = (float)logit < INFINITY ? (float)logit : INFINITY;
  if (value > most) { most = value; at = id; }
};
auto join = [&](float value, unsigned id) {
  if (value > most || (value == most && id < at)) { most = value; at = id; }
};
auto join_warp = [&] {
  #pragma unroll
  for (int far = 16; far > 0; far /= 2) {
    const float value = __shfl_xor_sync(0xffffffff, most, far);
    join(value, __shfl_xor_sync(0xffffffff, at, far));
  }
};

// Sixteen bytes are read at once from multiples of sixteen only, and a row begins anywhere.
const int before = min(V, (int)((16 - (size_t)mine %% 16) %% 16 / sizeof(%(type)s)));
const int packs = (V - before) / PACK, after = before + packs * PACK;
const Pack* const whole = (const Pack*)(mine + before);
const int share = (packs + splits - 1) / splits, low = split * share, high = min(packs, low + share);
if (split == 0 && thread < before) look(mine[thread], thread);
for (int first = low + thread; first < high; first += THREADS * AT_ONCE) {
  Pack found[AT_ONCE];
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++) found[u] = whole[min(first + u * THREADS, high - 1)];
  #pragma unroll
  for (int u = 0; u < AT_ONCE; u++) {
    const int id = before + min(first + u * THREADS, high - 1) * PACK;
    #pragma unroll
    for (int e = 0; e < PACK; e++) look(found[u].v[e], id + e);
  }
}
if (split == splits - 1 && after + thread < V) look(mine[after + thread], after + thread);

__shared__ float all_most[WARPS];
__shared__ unsigned all_at[WARPS];
__shared__ bool is_last;
join_warp();
if (thread %% 32 == 0) { all_most[thread / 32] = most; all_at[thread / 32] = at; }
__syncthreads();
if (thread >= 32) return;
most = all_most[thread %% WARPS];
at = all_at[thread %% WARPS];
join_warp();
if (splits > 1) {
  const size_t shares = (size_t)row * splits;
  int* const done = (int*)waiting + turn + row;
  if (thread == 0) {
    share_most[shares + split] = most;
    share_at[shares + split] = at;
    __threadfence();
    is_last = atomicAdd(done, 1) == splits - 1;
  }
  __syncwarp();
  if (!is_last) return;
  __threadfence();
  if (thread == 0) *done = 0;
  most = -INFINITY;
  at = NONE;
  for (int s = thread; s < splits; s += 32) join(__ldcg(share_most + shares + s), __ldcg(share_at + shares + s));
  join_warp();
}
if (thread == 0) {
  const unsigned token = at == NONE ? 0 : at;  // none: minus infinity everywhere
  tokens[row] = token;
  unsigned* told = told0;
  switch (row / 2) { %(cases)s }
  told[row %% 2] = most < INFINITY ? token : NONE;
}
"""

TELL = r"""
const int row = threadIdx.x;
if (row >= rows) return;
unsigned* told = told0;
switch (row / 2) { %(cases)s }
told[row %% 2] = tokens[row];
"""
