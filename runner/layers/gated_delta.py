"""The layer of linear attention by the gated delta rule, and the rule for many positions at once.

`kernels/delta.py` says what the rule is. Its `sequential` goes position by position; it decodes. `chunked` gives
the same for T positions at once, by matrix products (Yang et al. 2024, arXiv 2406.06484); it prefills. Both are in
float32, whatever the layers around compute in, since S is rounded at every step of the sequence.

Letters of its own, beside those of `kernels/delta.py`:

    N  chunks     T  positions of a chunk

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

import mlx.core as mx

from runner.cache.base import States
from runner.kernels import choice
from runner.kernels.delta import LinearConfig as LinearConfig
from runner.kernels.delta import Parts, Rule, answered, apart, sequential
from runner.kernels.delta_chunks import Chunks, Through, plain
from runner.layers import nn
from runner.layers.joined import Joinable
from runner.layers.shards import Cut, Shards, Side, Unit

CHUNK = 32  # positions, T; a power of 2
WHOLE = "in_proj"  # all that a layer projects
SEQUENTIAL_UP_TO = 4  # positions; beyond, a chunk costs less, however little of it is used


def chunked(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    decay: mx.array,
    rate: mx.array,
    memory: mx.array,
    through: Through = plain,
) -> tuple[mx.array, mx.array]:
    """`sequential`'s arguments and results. through: how to go from chunk to chunk.

    With S the memory before a chunk and faded(i,j) the product of the decays of (j,i], position i writes

        write(i) = b(i) (v(i) - faded(i,0) k(i) S - sum over j < i of faded(i,j) k(i) k(j)^T write(j))

    which is a unit triangular system for all writes of the chunk at once. Its inverse does not depend on S, so all
    chunks are solved together; only what is left, products with S, goes one by one (`kernels/delta_chunks.py`).
    """
    batch, heads, length, _ = keys.shape
    missing = -length % CHUNK  # filled up with positions that fade nothing and write nothing

    def cut(x: mx.array) -> mx.array:
        """[B,H,L,..] -> [B,H,N,T,..]."""
        padded = mx.pad(x, [(0, 0), (0, 0), (0, missing), *[(0, 0)] * (x.ndim - 3)])
        return padded.reshape(batch, heads, -1, CHUNK, *x.shape[3:])

    queries, keys, values, decay, rate = (cut(x) for x in (queries, keys, values, decay, rate))
    decay, rate = decay[..., None], rate[..., None]  # [B,H,N,T,1]
    since_start = mx.exp(mx.cumsum(decay, axis=-2))
    # What (j,i] fades is summed up by itself: as a difference of two sums a small decay is lost beside a large one.
    before = mx.tril(mx.ones((CHUNK, CHUNK), mx.bool_), -1)  # [T,T]
    faded = mx.tril(mx.exp(mx.cumsum(mx.where(before, decay, 0), axis=-2)))  # [B,H,N,T,T]
    across = keys.swapaxes(-1, -2)  # [B,H,N,P,T]
    solved = inverse(mx.tril(rate * (keys @ across) * faded, -1))  # [B,H,N,T,T]
    fresh = solved @ (rate * values)  # [B,H,N,T,Q]: the writes if S were 0
    corrected = solved @ (rate * since_start * keys)  # [B,H,N,T,P]: what S takes from them
    scores = (queries @ across) * faded  # [B,H,N,T,T]
    chunks = Chunks(
        fresh,
        corrected,
        scores,
        queries * since_start,
        keys * faded[..., -1, :, None],
        since_start[..., -1, 0],  # what a whole chunk leaves of S
    )
    answers, memory = through(chunks, memory)
    return answers.flatten(2, 3)[:, :, :length], memory


def inverse(lower: mx.array) -> mx.array:
    """The inverse of 1 + a strictly lower triangular matrix [..,T,T], by halves: as exact as one by rows would be,
    where the shorter way by powers of the matrix loses everything to keys that repeat.
    """
    size = lower.shape[-1]
    if size == 2:
        return mx.eye(2) - lower
    half = size // 2
    diagonal = mx.stack([lower[..., :half, :half], lower[..., half:, half:]], axis=-3)
    both = inverse(diagonal)
    top, bottom = both[..., 0, :, :], both[..., 1, :, :]
    corner = -(bottom @ lower[..., half:, :half] @ top)
    upper = mx.concatenate([top, mx.zeros_like(top)], axis=-1)
    return mx.concatenate([upper, mx.concatenate([corner, bottom], axis=-1)], axis=-2)


class CausalConv(nn.Module):
    """The weight of a convolution of each channel for itself."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, kernel, 1))


class GatedDeltaNet(Joinable):
    """The first half of a block. What a checkpoint projects together differs: `joins` is the architecture's. It has
    `in_proj` for all; `in_proj_qkvz` and `in_proj_ba` may be there for layers that are not of one kind.
    """

    is_summed: ClassVar = True
    is_grouped: ClassVar = False
    """Whether projections give the parts of each key head behind those of the one before."""

    def __init__(self, config: LinearConfig, hidden: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.conv1d = CausalConv(config.channels, config.kernel)
        self.dt_bias = mx.zeros(config.value_heads)
        self.A_log = mx.zeros(config.value_heads)
        self.norm = nn.RMSNorm(config.value_width, eps)
        self.out_proj = nn.Linear(config.value_heads * config.value_width, hidden, bias=False)
        self.chunked = partial(chunked, through=choice.linear_chunks())

    def project(self, x: mx.array) -> Parts:
        """[B,L,E] -> what the rule is given."""
        names = [name for name in self.joins if name != WHOLE]
        if WHOLE in self or not names:
            names = [WHOLE]
        projected = [output for name in names for output in self.outputs(name, x)]
        return apart(projected, self.config, is_grouped=self.is_grouped)

    def rule(self) -> Rule:
        """With its weights as they are now."""
        weights = self.conv1d.weight.squeeze(-1), self.dt_bias, self.A_log, self.norm.weight
        return Rule(self.config, self.is_grouped, *weights, self.norm.eps)

    def shards(self) -> Shards:
        """By the heads of keys, each with those that it serves. What is projected is the architecture's to add."""
        return Shards(
            {
                "conv1d": Cut(Side.FIRST, Unit.HEADS, self.config.parts),
                "dt_bias": Cut(Side.FIRST, Unit.HEADS),
                "A_log": Cut(Side.FIRST, Unit.HEADS),
                "out_proj": Cut(Side.INPUTS, Unit.HEADS),
            },
            self.config.key_heads,
        )

    def keep(self, heads: int, key_heads: int) -> None:
        each = self.config.value_heads // self.config.key_heads
        self.config = replace(self.config, key_heads=heads, value_heads=heads * each)

    def __call__(self, x: mx.array, states: States) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        length = x.shape[1]
        recurrence = sequential if length <= SEQUENTIAL_UP_TO else self.chunked
        found, state = answered(self.project(x), self.rule(), states.state, recurrence)
        states.replace(state, length)
        return self.out_proj(found)
