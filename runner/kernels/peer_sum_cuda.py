"""The sum of what a few processes have, each on a GPU of its own, as one CUDA kernel for few positions.

Why: a layer that is divided waits for two sums, and through NCCL one of a single position takes 35 us, of which the
bytes need less than one. Here each process writes its part right into memory of all others, a room that the group
has for this (`ranks/rooms.py`), says so beside it, and adds up what the others wrote.

    x [..]             16 bytes or a multiple of it, at most `MOST_BYTES`; of one shape in all processes
    rooms [N,2]        uint32: the addresses of all processes' rooms, halves of 64 bits, the low one first

All add in the order of their ranks, in float32, so all find the same bits. Each room has space for two sums: a
process that is one sum ahead does not overwrite what another has not read, and none can be two ahead, since it
waits for everybody's part of the last one. So no two sums may overlap: each is given the one before, which it does
not read, and MLX starts it behind that.

Knows nothing about layers or how rooms are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.program import C_TYPES, Array, Program

MOST_BYTES = 1 << 19
PACK = 16  # bytes that a thread takes at once
THREADS, MOST_BLOCKS = 256, 16
LINE = 128  # bytes between counters, so that none waits for its neighbour
DTYPES = {mx.bfloat16, mx.float16, mx.float32}


def room_bytes(ranks: int) -> int:
    """How large the room of a process is: counters, then two parts of each process."""
    return _data_at(ranks) + 2 * ranks * MOST_BYTES


def fits(x: mx.array) -> bool:
    return x.dtype in DTYPES and 0 < x.nbytes <= MOST_BYTES and x.nbytes % PACK == 0


def cuda(rank: int, ranks: int, rooms: mx.array) -> Callable[[mx.array], mx.array]:
    """For arrays that fit. rooms: memory that is zero before the first sum. All processes call it in one order."""

    before = rooms

    def total(x: mx.array) -> mx.array:
        nonlocal before
        packs = x.nbytes // PACK
        blocks = min(MOST_BLOCKS, -(-packs // THREADS))
        grid, block = (THREADS * blocks, 1, 1), (THREADS, 1, 1)
        kernel = _kernel(x.dtype, rank, ranks)
        before = kernel([x, rooms, before], grid, block, [x.shape], (packs,))[0]
        return before

    return total


@cache
def _kernel(dtype: mx.Dtype, rank: int, ranks: int) -> Kernel:
    return compiled.kernel(program(dtype, rank, ranks))


def program(dtype: mx.Dtype, rank: int, ranks: int) -> Program:
    words = {
        "type": C_TYPES[dtype],
        "rank": rank,
        "ranks": ranks,
        "line": LINE,
        "blocks": MOST_BLOCKS,
        "threads": THREADS,
        "most": MOST_BYTES,
        "data": _data_at(ranks),
    }
    inputs = Array("x", dtype), Array("rooms", mx.uint32), Array("before", mx.uint8)
    return Program(
        "peer_sum", inputs, (Array("out", dtype),), BODY % words, HEADER % words, ("packs",), THREADS
    )


def _data_at(ranks: int) -> int:
    """Behind the counters: each block's own, and what each process said to each block."""
    return MOST_BLOCKS * (1 + ranks) * LINE


HEADER = r"""
typedef unsigned long long Count;
struct alignas(16) Pack { %(type)s v[16 / sizeof(%(type)s)]; };
namespace peers {
__device__ inline Count read_count(const Count* from) {
  Count v;
  asm volatile("ld.acquire.sys.global.u64 %%0, [%%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
// Whoever reads it sees what all threads of this block wrote before.
__device__ inline void say(Count* to, Count v) {
  asm volatile("st.release.sys.global.u64 [%%0], %%1;" :: "l"(to), "l"(v) : "memory");
}
__device__ inline uint4 read(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%%0, %%1, %%2, %%3}, [%%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}
__device__ inline void write(void* to, uint4 v) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%%0], {%%1, %%2, %%3, %%4};"
               :: "l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
}
"""

BODY = r"""
using namespace peers;
constexpr int RANK = %(rank)d, RANKS = %(ranks)d, LINE = %(line)d, BLOCKS = %(blocks)d, THREADS = %(threads)d;
constexpr int EACH = 16 / sizeof(%(type)s);
const int block = blockIdx.x, thread = threadIdx.x;
auto room = [&](int rank) { return (unsigned char*)((Count)rooms[2 * rank + 1] << 32 | rooms[2 * rank]); };
// Counters of a block: its own, and what process `rank` said to it.
auto own_count = [&](unsigned char* room) { return (Count*)(room + block * LINE); };
auto said = [&](unsigned char* room, int rank) { return (Count*)(room + (BLOCKS + block * RANKS + rank) * LINE); };

const Count turn = *own_count(room(RANK)) + 1;
auto part = [&](unsigned char* room, int rank) {
  return room + %(data)d + (size_t)((turn & 1) * RANKS + rank) * %(most)d;
};
__syncthreads();  // all have read the counter
const uint4* const mine = (const uint4*)x;
#pragma unroll
for (int step = 1; step < RANKS; step++) {
  const int other = (RANK + step) %% RANKS;
  unsigned char* const to = part(room(other), RANK);
  for (int i = block * THREADS + thread; i < packs; i += gridDim.x * THREADS) write(to + (size_t)i * 16, mine[i]);
}
__syncthreads();
if (thread < RANKS && thread != RANK) {
  say(said(room(thread), RANK), turn);
  while (read_count(said(room(RANK), thread)) < turn) {}
}
if (thread == 0) *own_count(room(RANK)) = turn;
__syncthreads();
for (int i = block * THREADS + thread; i < packs; i += gridDim.x * THREADS) {
  float sums[EACH] = {};
  #pragma unroll
  for (int rank = 0; rank < RANKS; rank++) {
    const uint4 found = rank == RANK ? mine[i] : read(part(room(RANK), rank) + (size_t)i * 16);
    const Pack& pack = *(const Pack*)&found;
    #pragma unroll
    for (int e = 0; e < EACH; e++) sums[e] += (float)pack.v[e];
  }
  Pack whole;
  #pragma unroll
  for (int e = 0; e < EACH; e++) whole.v[e] = (%(type)s)sums[e];
  ((Pack*)out)[i] = whole;
}
"""
