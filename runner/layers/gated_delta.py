"""Linear attention by the gated delta rule (Yang et al. 2024, arXiv 2412.06464), behind a short convolution.

A head remembers a matrix S that maps keys to values. A position with decay a, rate b, key k and value v lets it
fade and then replaces what stands under k, in part, by v; its answer is what stands under the query q. As rows:

    S <- a S        S <- S + k^T b (v - k S)        y = q S

`sequential` is just that, position by position; it decodes. `chunked` gives the same for T positions at once, by
matrix products (Yang et al. 2024, arXiv 2406.06484); it prefills. Both are in float32, whatever the layers around
compute in, since S is rounded at every step of the sequence.

Letters of its own, beside those of `models/base.py`:

    H  heads of values, each with an S      K  heads of queries and keys; each serves H/K neighbours
    P  width of a query or key              Q  width of a value
    W  positions that the convolution sees  C  its channels, 2*K*P + H*Q
    N  chunks                               T  positions of a chunk

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import mlx.core as mx

from runner.cache.base import States
from runner.cache.recurrent import State
from runner.layers import nn
from runner.layers.shards import Cut, Shards, Side, Unit

CHUNK = 32  # positions, T; a power of 2
SEQUENTIAL_UP_TO = 4  # positions; beyond, a chunk costs less, however little of it is used


@dataclass(frozen=True)
class LinearConfig:
    key_heads: int  # K
    value_heads: int  # H
    key_width: int  # P
    value_width: int  # Q
    kernel: int  # W

    @property
    def parts(self) -> tuple[int, int, int]:
        """The channels of queries, of keys and of values."""
        keys = self.key_heads * self.key_width
        return keys, keys, self.value_heads * self.value_width

    @property
    def channels(self) -> int:  # C
        return sum(self.parts)


def sequential(
    queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """[B,H,L,P], [B,H,L,P], [B,H,L,Q], decay (its logarithm) and rate [B,H,L], S [B,H,P,Q] -> [B,H,L,Q] and the S
    behind them.
    """
    kept = mx.exp(decay)[..., None, None]  # [B,H,L,1,1]
    rate = rate[..., None, None]
    answers = []
    for t in range(keys.shape[2]):
        key, value = keys[:, :, t, None], values[:, :, t, None]  # [B,H,1,P], [B,H,1,Q]
        memory = memory * kept[:, :, t]
        change = (value - key @ memory) * rate[:, :, t]  # [B,H,1,Q]
        memory = memory + key.swapaxes(-1, -2) @ change
        answers.append(queries[:, :, t, None] @ memory)
    return mx.concatenate(answers, axis=2), memory


def chunked(
    queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """`sequential`'s arguments and results.

    With S the memory before a chunk and faded(i,j) the product of the decays of (j,i], position i writes

        write(i) = b(i) (v(i) - faded(i,0) k(i) S - sum over j < i of faded(i,j) k(i) k(j)^T write(j))

    which is a unit triangular system for all writes of the chunk at once. Its inverse does not depend on S, so all
    chunks are solved together; only what is left, two products with S for a chunk, goes one by one.
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
    queries = queries * since_start
    across = across * faded[..., -1:, :]
    kept = since_start[..., -1:, :]  # [B,H,N,1,1]
    answers = []
    for n in range(keys.shape[2]):
        writes = fresh[:, :, n] - corrected[:, :, n] @ memory  # [B,H,T,Q]
        answers.append(queries[:, :, n] @ memory + scores[:, :, n] @ writes)
        memory = memory * kept[:, :, n] + across[:, :, n] @ writes
    return mx.concatenate(answers, axis=2)[:, :, :length], memory


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
    """Each channel for itself. As W products it is several times faster than mx.conv1d on a CPU."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, kernel, 1))

    def __call__(self, x: mx.array) -> mx.array:
        """[B,W-1+L,C] -> [B,L,C]: each position from itself and the W-1 before it."""
        taps: mx.array = self.weight[..., 0].T  # [W,C]
        kernel = taps.shape[0]
        length = x.shape[1] - kernel + 1
        out: mx.array = x[:, :length] * taps[0]
        for tap in range(1, kernel):
            out = out + x[:, tap : tap + length] * taps[tap]
        return out


class GatedNorm(nn.RMSNorm):
    """RMSNorm of a head's answer, times a gate in float32."""

    def gated(self, x: mx.array, gate: mx.array) -> mx.array:
        """[B,L,H,Q] twice -> [B,L,H,Q]."""
        normed: mx.array = self(x)
        wide: mx.array = normed.astype(mx.float32) * nn.silu(gate.astype(mx.float32))
        return wide.astype(x.dtype)


class GatedDeltaNet(nn.Module):
    """The first half of a block. What a checkpoint projects together differs: `project` is the architecture's."""

    is_summed: ClassVar = True

    def __init__(self, config: LinearConfig, hidden: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.conv1d = CausalConv(config.channels, config.kernel)
        self.dt_bias = mx.zeros(config.value_heads)
        self.A_log = mx.zeros(config.value_heads)
        self.norm = GatedNorm(config.value_width, eps)
        self.out_proj = nn.Linear(config.value_heads * config.value_width, hidden, bias=False)

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """[B,L,E] -> queries, keys and values behind each other [B,L,C], gate [B,L,H,Q], raw rate and raw decay
        [B,L,H].
        """
        raise NotImplementedError

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

    def __call__(self, x: mx.array, cache: States) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        batch, length, _ = x.shape
        mixed, gate, raw_rate, raw_decay = self.project(x)
        tail, memory = cache.state or self._nothing(batch, x.dtype)
        seen = mx.concatenate([tail, mixed], axis=1)  # [B,W-1+L,C]
        queries, keys, values = self._heads(nn.silu(self.conv1d(seen)))
        rate = mx.sigmoid(raw_rate).astype(mx.float32).transpose(0, 2, 1)  # [B,H,L]
        steps = mx.logaddexp(raw_decay.astype(mx.float32) + self.dt_bias, 0.0)  # softplus
        decay = (-mx.exp(self.A_log.astype(mx.float32)) * steps).transpose(0, 2, 1)  # [B,H,L]
        rule = sequential if length <= SEQUENTIAL_UP_TO else chunked
        answers, memory = rule(queries, keys, values, decay, rate, memory)
        # Contiguous, since a slice would hold on to all of `seen`.
        cache.replace((mx.contiguous(seen[:, length:]), memory), length)
        answers = answers.transpose(0, 2, 1, 3).astype(x.dtype)  # [B,L,H,Q]
        return self.out_proj(self.norm.gated(answers, gate).reshape(batch, length, -1))

    def _nothing(self, batch: int, dtype: mx.Dtype) -> State:
        """The state before position 0: [B,W-1,C], [B,H,P,Q]."""
        config = self.config
        memory = mx.zeros((batch, config.value_heads, config.key_width, config.value_width), mx.float32)
        return mx.zeros((batch, config.kernel - 1, config.channels), dtype), memory

    def _heads(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """[B,L,C] -> [B,H,L,P], [B,H,L,P], [B,H,L,Q], queries and keys of length 1 (queries: P^-0.5)."""
        config = self.config
        batch, length, _ = mixed.shape
        width = config.key_heads * config.key_width
        each = config.value_heads // config.key_heads

        def apart(part: mx.array, heads: int) -> mx.array:
            return part.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3).astype(mx.float32)

        def normed(part: mx.array, scale: float) -> mx.array:
            # x / sqrt(sum(x^2) + 1e-6) by way of the mean; the number is the model's, not the config's.
            of_one = mx.fast.rms_norm(part, None, 1e-6 / config.key_width) * (scale * config.key_width**-0.5)
            return of_one if each == 1 else mx.repeat(of_one, each, axis=1)

        queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
        return (
            normed(apart(queries, config.key_heads), config.key_width**-0.5),
            normed(apart(keys, config.key_heads), 1.0),
            apart(values, config.value_heads),
        )
