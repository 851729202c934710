"""How blocks of `seam_source.py` reach memory: they copy weights ahead, load what they multiply, and wait for each
other. Words in %(parentheses)s are filled in for each shape.

Shapes: see `seam.py`.
"""

from __future__ import annotations

MEMORY = r"""
namespace seam {
typedef unsigned int word;
constexpr int PRODUCTS = %(products)d;
constexpr int WARPS = %(warps)d, DEPTH = %(depth)d, COLS = %(cols)d;
constexpr int INPUTS = %(inputs)d;                             // of a row in an item
constexpr int GROUP = %(group)d, GROUPS = %(groups)d;          // inputs of a scale, scales of a row in an item
constexpr int SCALES = GROUPS * 2;                             // bytes
constexpr int SLOT = 16 * (128 + 2 * SCALES);
constexpr int WIDEST = %(tiles)d * 16;                         // outputs that a block makes at once, gates included
constexpr int FOUND = WARPS * WIDEST * (COLS * 8 + 1);         // floats

__device__ inline word bits(__nv_bfloat162 pair) { return *(word*)&pair; }

__device__ inline void copy16(unsigned char* to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%%0], [%%1], 16;"
               :: "r"((word)__cvta_generic_to_shared(to)), "l"(from));
}
template <int BYTES> __device__ inline void copy_few(unsigned char* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%%0], [%%1], %%2;"
               :: "r"((word)__cvta_generic_to_shared(to)), "l"(from), "n"(BYTES));
}
__device__ inline void end_of_item() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LATER> __device__ inline void wait_for_items() {
  asm volatile("cp.async.wait_group %%0;" :: "n"(LATER) : "memory");
}
// Volatile: the compiler would move a plain load down to where its value is used.
__device__ inline uint4 read_eight(const void* from) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%%0, %%1, %%2, %%3}, [%%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}
template <typename T> __device__ inline float read_one(const T* from) {
  if constexpr (sizeof(T) == 2) {
    unsigned short v;
    asm volatile("ld.global.u16 %%0, [%%1];" : "=h"(v) : "l"(from));
    return (float)*(T*)&v;
  } else {
    word v;
    asm volatile("ld.global.u32 %%0, [%%1];" : "=r"(v) : "l"(from));
    return (float)*(T*)&v;
  }
}
typedef unsigned long long Count;
__device__ inline Count read_count(const Count* from) {
  Count v;
  asm volatile("ld.acquire.gpu.global.u64 %%0, [%%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
__device__ inline void count_one(Count* at) {
  asm volatile("red.release.gpu.global.add.u64 [%%0], 1;" :: "l"(at) : "memory");
}
__device__ inline void multiply(float (&c)[4], word a0, word a1, word a2, word a3, word b0, word b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%%0, %%1, %%2, %%3}, {%%4, %%5, %%6, %%7}, {%%8, %%9}, {%%0, %%1, %%2, %%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Where all blocks wait for each other. Whoever arrives counts, and waits until as many did as there are. What
// memory answers comes behind all weights that are under way, so there is one answer to wait for. The count goes on
// from launch to launch: before a block has arrived for the first time, nobody is behind the first wait.
struct Meeting {
  Count *arrived, wanted;
  __device__ inline Meeting(Count* at) : arrived(at), wanted(0) {
    if (threadIdx.x == 0) {
      const Count now = read_count(at);
      wanted = now - now %% (gridDim.x * (PRODUCTS - 1));
    }
  }
  __device__ inline void all_blocks() {
    __syncthreads();
    if (threadIdx.x == 0) {
      count_one(arrived);
      wanted += gridDim.x;
      while (read_count(arrived) < wanted) {}
    }
    __syncthreads();
  }
};

// One of the four, for whoever copies its weight.
struct Weights {
  const unsigned char* weight;
  const __nv_bfloat16 *scales, *biases, *bias;
  int items, rounds;    // of a row; of blocks
  int made;             // outputs of a round
  int tiles, apart;     // times 16 rows at once, and rows from one such tile to the next
};

// What a product is given, and where what it makes goes; null for what is not there.
struct Ends {
  const __nv_bfloat16* x;           // [rows,W]
  const float* squares;             // of x before its norm's weight: [W/16,rows]
  float eps;                        // of that norm
  const __nv_bfloat16* residual;    // [rows,OUT]
  __nv_bfloat16* out;               // [rows,OUT]
  const %(norm_type)s* norm;        // the weight of the next norm
  __nv_bfloat16* normed;            // out times it
  float* squares_of_out;            // [OUT/16,rows]
};

// In shared memory. slots: of this warp. sums: what the warps of a block found, of two rounds.
struct Room {
  unsigned char* slots;
  float *sums, *factors;
};

// W inputs, OUT outputs, each with a gate in a gated one; TILES times 16 rows of the weight at once.
template <int W_, int OUT_, int TILES_, bool GATED_> struct Shape {
  static constexpr int W = W_, OUT = OUT_, TILES = TILES_, MADE = GATED_ ? 16 : 16 * TILES_;
  static constexpr bool GATED = GATED_;
  static constexpr int N = GATED ? 2 * OUT : OUT;
  static constexpr int ITEMS = W / INPUTS, ROUNDS = (OUT + MADE - 1) / MADE;
  static constexpr int APART = GATED ? OUT : 16;  // from a row of one tile to that of the next
};

template <class S>
__device__ inline Weights weights(const void* weight, const __nv_bfloat16* scales, const __nv_bfloat16* biases,
                                  const __nv_bfloat16* bias) {
  return {(const unsigned char*)weight, scales, biases, bias, S::ITEMS, S::ROUNDS, S::MADE, S::TILES, S::APART};
}

// 16-byte pieces of a row lie so that eight lanes read from different banks.
__device__ inline int place(int row, int piece) { return piece ^ ((row & 1) << 2 | (row & 2)); }

// Where a warp is among its items. Each lane copies 16 bytes of every fourth row, and scales or biases of one.
struct Cursor {
  int product = -1, round, rounds, item, items, tile = 0, tiles, made;
  const unsigned char* weight;
  const __nv_bfloat16* scale;

  __device__ inline void begin_round(const Weights& of) {
    const int lane = threadIdx.x %% 32, first = round * made;
    item = threadIdx.x / 32;
    weight = of.weight + ((size_t)(first + lane / 8) * items + item) * 128 + lane %% 8 * 16;
    if (GROUPS > 0)
      scale = (lane < 16 ? of.scales : of.biases) + ((size_t)(first + lane %% 16) * items + item) * GROUPS;
  }
  // The next one in which this warp has something to do.
  __device__ inline void begin_product(const Weights* all) {
    while (++product < PRODUCTS) {
      const Weights& of = all[product];
      round = blockIdx.x, rounds = of.rounds, items = of.items, tiles = of.tiles, made = of.made;
      if (round < rounds && threadIdx.x / 32 < items) return begin_round(of);
    }
  }
  // Copy the item, and move on.
  __device__ inline void copy(unsigned char* slot, const Weights* all) {
    if (product < PRODUCTS) {
      const int lane = threadIdx.x %% 32, row = lane / 8;
      const size_t later = tile ? (size_t)all[product].apart * items : 0;
      #pragma unroll
      for (int j = 0; j < 4; j++)
        copy16(slot + row * 128 + place(row, lane %% 8) * 16 + j * 512, weight + (later + j * 4 * items) * 128);
      if constexpr (GROUPS > 0) copy_few<SCALES>(slot + 2048 + lane * SCALES, scale + later * GROUPS);
      if (++tile == tiles) {
        tile = 0;
        item += WARPS;
        weight += WARPS * 128;
        scale += WARPS * GROUPS;
        if (item >= items) {
          round += gridDim.x;
          if (round < rounds) begin_round(all[product]);
          else begin_product(all);
        }
      }
    }
    end_of_item();
  }
};

"""
