"""What `seam_cuda.py` compiles: four products, one behind the other, in one kernel. Words in %(parentheses)s are
filled in for each shape.

One block runs on each processor of the GPU and stays: it makes its share of the outputs of a product, waits until
all blocks have made theirs, and goes on with the next product. Between kernels, and while all blocks wait for the
last one, the memory would be idle. Here it is not: weights depend on nothing, so each warp has those of the next
steps copied to shared memory, across the ends of outputs and of products.

A warp's step are 128 bytes of each of 16 rows of a weight (an item). The inputs of an output are shared among the
warps of its block, item by item, in an order that does not depend on how many positions there are, and so are the
bits of what is found. Multiplied is as in `product_source.py`.

What a norm needs is made by the product before it: the outputs times the norm's weight, and for each sixteen
outputs the sum of their squares.

Shapes: see `seam.py`.
"""

from __future__ import annotations

from runner.kernels.seam_memory import MEMORY

PRODUCT = r"""%(forms)s

// The outputs of one product. ahead: copies the next item, whatever product it belongs to.
template <class S, class Ahead>
__device__ inline void product(const __nv_bfloat16* bias, const Ends& ends, int rows, const Room& room, int& slot,
                               Ahead ahead) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x %% 32, g = lane / 4, t = lane %% 4;
  Inputs<S::W> inputs;
  if (warp < S::ITEMS) Asked<S::W>{ends.x, warp, warp, rows}.begin(inputs);
  if (ends.squares)
    for (int c = warp; c < rows; c += WARPS) {
      float sum = 0.f;
      for (int i = lane; i < (S::W + 15) / 16; i += 32) sum += __ldcg(ends.squares + (size_t)i * rows + c);
      #pragma unroll
      for (int other = 1; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffff, sum, other);
      if (lane == 0) room.factors[c] = rsqrtf(sum / S::W + ends.eps);
    }
  const Constants kept((word)(rows >> 31));
  int turn = 0;
  for (int round = blockIdx.x; round < S::ROUNDS; round += gridDim.x, turn ^= 1) {
    // What the sums will meet is asked for now, too. Thread i of every `threads` outputs makes number k.
    float added[COLS], next_norm[COLS];
    #pragma unroll
    for (int k = 0; k < COLS; k++) {
      const int i = k * WARPS * 32 + threadIdx.x, at = round * S::MADE + i %% S::MADE;
      const bool is_there = i < S::MADE * rows && at < S::OUT;
      added[k] = ends.residual && is_there ? read_one(ends.residual + (size_t)(i / S::MADE) * S::OUT + at) : 0.f;
      next_norm[k] = ends.normed && is_there ? read_one(ends.norm + at) : 0.f;
    }
    float acc[S::TILES][COLS][4] = {};
    for (int item = warp; item < S::ITEMS; item += WARPS) {
      const Asked<S::W> asked{ends.x, item, item + WARPS < S::ITEMS ? item + WARPS : warp, rows};
      wait_for_items<DEPTH - S::TILES>();
      __syncwarp();
      const unsigned char* of_tile[S::TILES];
      #pragma unroll
      for (int r = 0; r < S::TILES; r++) of_tile[r] = room.slots + (slot + r) %% DEPTH * SLOT;
      multiply_item<S::TILES>(acc, of_tile, inputs, asked, kept);
      __syncwarp();
      #pragma unroll
      for (int r = 0; r < S::TILES; r++) {
        ahead(room.slots + slot * SLOT);
        slot = slot + 1 == DEPTH ? 0 : slot + 1;
      }
    }
    // Two turns' sums lie apart, so that a warp may begin the next round while another one still adds up.
    float (*found)[WIDEST][COLS * 8 + 1] = (float (*)[WIDEST][COLS * 8 + 1])(room.sums + turn * FOUND);
    #pragma unroll
    for (int n = 0; n < COLS; n++)
      #pragma unroll
      for (int r = 0; r < S::TILES; r++)
        #pragma unroll
        for (int i = 0; i < 4; i++) found[warp][r * 16 + g + i / 2 * 8][n * 8 + 2 * t + i %% 2] = acc[r][n][i];
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < COLS; k++) {
      if (k * WARPS * 32 + warp * 32 >= S::MADE * rows) break;
      const int i = k * WARPS * 32 + threadIdx.x, j = i %% S::MADE, at = round * S::MADE + j;
      const int c = min(i / S::MADE, rows - 1);
      const bool is_there = i < S::MADE * rows && at < S::OUT;
      const float factor = ends.squares ? room.factors[c] : 1.f;
      auto output = [&](int row, int number) {
        float y = 0.f;
        #pragma unroll
        for (int w = 0; w < WARPS; w++) y += found[w][row][c];
        y *= factor;
        if (bias && number < S::N) y += (float)bias[number];
        return y;
      };
      float y = output(j, at);
      if constexpr (S::GATED) y = y / (1.f + __expf(-y)) * output(16 + j, S::OUT + at);
      const size_t place = (size_t)c * S::OUT + at;
      if (ends.residual) y += added[k];
      const __nv_bfloat16 made = (__nv_bfloat16)y;
      if (is_there) ends.out[place] = made;
      if (ends.normed) {
        if (is_there) ends.normed[place] = (__nv_bfloat16)((float)made * next_norm[k]);
        float square = is_there ? (float)made * (float)made : 0.f;
        #pragma unroll
        for (int other = 1; other < 16; other *= 2) square += __shfl_xor_sync(0xffffffff, square, other);
        if (is_there && j %% 16 == 0) ends.squares_of_out[(size_t)(at / 16) * rows + c] = square;
      }
    }
  }
}
}
"""
HEADER = MEMORY + PRODUCT

BODY = r"""
using namespace seam;
using Out = Shape<%(A)d, %(E)d, %(out_tiles)d, false>;
using GateUp = Shape<%(E)d, %(F)d, 2, true>;
using Down = Shape<%(F)d, %(E)d, %(down_tiles)d, false>;
using Following = Shape<%(E)d, %(J)d, %(following_tiles)d, false>;
extern __shared__ uint4 staged[];
unsigned char* all_slots = (unsigned char*)staged;
float* sums = (float*)(all_slots + WARPS * DEPTH * SLOT);
const Room room{all_slots + threadIdx.x / 32 * DEPTH * SLOT, sums, sums + 2 * FOUND};

__shared__ Weights all[4];
if (threadIdx.x == 0) {
  all[0] = weights<Out>(%(out)s);
  all[1] = weights<GateUp>(%(gate_up)s);
  all[2] = weights<Down>(%(down)s);
  all[3] = weights<Following>(%(following)s);
}
__syncthreads();
const size_t wide = (size_t)rows * %(E)d, lines = (size_t)rows * %(lines)d;
__nv_bfloat16 *between = scratch, *normed = between + wide, *normed_again = normed + wide;
__nv_bfloat16* gated = normed_again + wide;
const Ends of_out{found, nullptr, 0.f, x, between, norm, normed, squares};
const Ends of_gate_up{normed, squares, %(eps)s, nullptr, gated, nullptr, nullptr, nullptr};
const Ends of_down{gated, nullptr, 0.f, between, out, %(last_norm)s};

Meeting blocks((Count*)gate);
Cursor at;
auto ahead = [&](unsigned char* to) { at.copy(to, all); };
at.begin_product(all);
#pragma unroll 1
for (int i = 0; i < DEPTH; i++) ahead(room.slots + i * SLOT);
int slot = 0;
product<Out>(all[0].bias, of_out, rows, room, slot, ahead);
blocks.all_blocks();
product<GateUp>(all[1].bias, of_gate_up, rows, room, slot, ahead);
blocks.all_blocks();
product<Down>(all[2].bias, of_down, rows, room, slot, ahead);
%(last)s
"""
LAST = r"""
blocks.all_blocks();
const Ends of_following{normed_again, squares + lines, %(next_eps)s, nullptr, joined, nullptr, nullptr, nullptr};
product<Following>(all[3].bias, of_following, rows, room, slot, ahead);
"""
