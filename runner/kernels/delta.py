"""Linear attention by the gated delta rule (Yang et al. 2024, arXiv 2412.06464), behind a short convolution: from
what a layer projects to what its heads answer, and the state behind it.

A head remembers a matrix S that maps keys to values. A position with decay a, rate b, key k and value v lets it
fade and then replaces what stands under k, in part, by v; its answer is what stands under the query q. As rows:

    S <- a S        S <- S + k^T b (v - k S)        y = q S

This is the plain form, of MLX's own operations; `delta_cuda.py` has a kernel for a single position of each row.

Letters of its own, beside those of `models/base.py`:

    H  heads of values, each with an S      K  heads of queries and keys; each serves H/K neighbours
    P  width of a query or key              Q  width of a value
    W  positions that the convolution sees  C  its channels, 2*K*P + H*Q
    N  all that a layer projects, C + H*Q + 2*H

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import mlx.core as mx
from mlx.nn.layers.activations import silu

LENGTH_EPS = 1e-6  # the model's, not the config's

State = tuple[mx.array, ...]
"""What the convolution sees of the positions before [B,W-1,C], and S [B,H,P,Q] in float32."""


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

    @property
    def served(self) -> int:
        """Heads of values that a head of keys serves."""
        return self.value_heads // self.key_heads


class Parts(NamedTuple):
    """What a layer projects: channels [B,L,C], gate [B,L,H,Q], raw rate and raw decay [B,L,H]."""

    mixed: mx.array
    gate: mx.array
    rate: mx.array
    decay: mx.array


class Rule(NamedTuple):
    """What a layer computes with, beside its projections. is_grouped: whether they give the parts of each key head
    behind those of the one before, first queries, keys, values and gates, then rates and decays; else each part
    stands by itself.
    """

    config: LinearConfig
    is_grouped: bool
    convolution: mx.array  # [C,W]
    decay_bias: mx.array  # [H]
    decay_log: mx.array  # [H]
    norm: mx.array  # [Q]
    eps: float


Recurrence = Callable[[mx.array, mx.array, mx.array, mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]
"""Queries, keys [B,H,L,P], values [B,H,L,Q], decay (its logarithm) and rate [B,H,L], S [B,H,P,Q] -> answers
[B,H,L,Q] and the S behind them, all float32.
"""
Step = Callable[[mx.array, State | None], tuple[mx.array, State]]
"""What a layer projects of one position of each row [B,1,N], and the state, None before position 0 -> what is found
[B,1,H*Q], and the state behind it.
"""


class Steps(NamedTuple):
    """A way to make a step. fits: whether it is there for such a layer."""

    fits: Callable[[Rule], bool]
    make: Callable[[Rule], Step]


def plain(rule: Rule) -> Step:
    """Each operation for itself."""
    config = rule.config
    gates = config.value_heads * config.value_width
    if rule.is_grouped:
        sizes = [config.channels + gates]
    else:
        sizes = list(accumulate([config.channels, gates, config.value_heads]))

    def step(joined: mx.array, state: State | None) -> tuple[mx.array, State]:
        parts: Sequence[mx.array] = mx.split(joined, sizes, axis=-1)  # type: ignore[assignment]  # the stub says array
        return answered(apart(parts, config, is_grouped=rule.is_grouped), rule, state, sequential)

    return step


PLAIN = Steps(lambda rule: True, plain)


def apart(projected: Sequence[mx.array], config: LinearConfig, *, is_grouped: bool) -> Parts:
    """From the order in which a layer projects."""
    batch, length, _ = projected[0].shape
    if not is_grouped:
        mixed, gate, rate, decay = projected
        return Parts(mixed, gate.reshape(batch, length, config.value_heads, -1), rate, decay)
    wide, narrow = (part.reshape(batch, length, config.key_heads, -1) for part in projected)
    query, value = config.key_width, config.served * config.value_width
    *mixed_parts, gate = mx.split(wide, [query, 2 * query, 2 * query + value], axis=-1)  # [B,L,K,..]
    rate, decay = (part.reshape(batch, length, -1) for part in mx.split(narrow, 2, axis=-1))  # [B,L,H]
    mixed = mx.concatenate([part.reshape(batch, length, -1) for part in mixed_parts], axis=-1)  # [B,L,C]
    return Parts(mixed, gate.reshape(batch, length, config.value_heads, -1), rate, decay)


def answered(parts: Parts, rule: Rule, state: State | None, recurrence: Recurrence) -> tuple[mx.array, State]:
    """What the heads answer, normed and gated [B,L,H*Q], and the state behind it."""
    batch, length, _ = parts.mixed.shape
    tail, memory = state or nothing(rule.config, batch, parts.mixed.dtype)
    seen = mx.concatenate([tail, parts.mixed], axis=1)  # [B,W-1+L,C]
    queries, keys, values = heads_of(silu(convolved(seen, rule.convolution)), rule.config)
    rate = mx.sigmoid(parts.rate).astype(mx.float32).transpose(0, 2, 1)  # [B,H,L]
    steps = mx.logaddexp(parts.decay.astype(mx.float32) + rule.decay_bias, 0.0)  # softplus
    decay = (-mx.exp(rule.decay_log.astype(mx.float32)) * steps).transpose(0, 2, 1)  # [B,H,L]
    answers, memory = recurrence(queries, keys, values, decay, rate, memory)
    answers = answers.transpose(0, 2, 1, 3).astype(parts.mixed.dtype)  # [B,L,H,Q]
    found = gated(mx.fast.rms_norm(answers, rule.norm, rule.eps), parts.gate)
    # Contiguous, since a slice would hold on to all of `seen`.
    return found.reshape(batch, length, -1), (mx.contiguous(seen[:, length:]), memory)


def nothing(config: LinearConfig, batch: int, dtype: mx.Dtype) -> State:
    """The state before position 0."""
    memory = mx.zeros((batch, config.value_heads, config.key_width, config.value_width), mx.float32)
    return mx.zeros((batch, config.kernel - 1, config.channels), dtype), memory


def convolved(x: mx.array, convolution: mx.array) -> mx.array:
    """[B,W-1+L,C] -> [B,L,C]: each position from itself and the W-1 before it, each channel for itself. As W
    products it is several times faster than mx.conv1d on a CPU.
    """
    taps = convolution.T  # [W,C]
    kernel = taps.shape[0]
    length = x.shape[1] - kernel + 1
    out = x[:, :length] * taps[0]
    for tap in range(1, kernel):
        out = out + x[:, tap : tap + length] * taps[tap]
    return out


def heads_of(mixed: mx.array, config: LinearConfig) -> tuple[mx.array, mx.array, mx.array]:
    """[B,L,C] -> [B,H,L,P], [B,H,L,P], [B,H,L,Q], queries and keys of length 1 (queries: P^-0.5)."""
    batch, length, _ = mixed.shape
    width = config.key_heads * config.key_width

    def split(part: mx.array, heads: int) -> mx.array:
        return part.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3).astype(mx.float32)

    def normed(part: mx.array, scale: float) -> mx.array:
        # x / sqrt(sum(x^2) + eps) by way of the mean.
        of_one = mx.fast.rms_norm(part, None, LENGTH_EPS / config.key_width)
        of_one = of_one * (scale * config.key_width**-0.5)
        return of_one if config.served == 1 else mx.repeat(of_one, config.served, axis=1)

    queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
    return (
        normed(split(queries, config.key_heads), config.key_width**-0.5),
        normed(split(keys, config.key_heads), 1.0),
        split(values, config.value_heads),
    )


def gated(normed: mx.array, gate: mx.array) -> mx.array:
    """Normed answers times a gate, in float32."""
    wide: mx.array = normed.astype(mx.float32) * silu(gate.astype(mx.float32))
    return wide.astype(normed.dtype)


def sequential(
    queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """Position by position; see `Recurrence`."""
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
