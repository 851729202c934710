"""Linear attention by the gated delta rule (Yang et al. 2024, arXiv 2412.06464), behind a short convolution.

A head remembers a matrix S that maps keys to values. A position with decay a, rate b, key k and value v lets it
fade and then replaces what stands under k, in part, by v; its answer is what stands under the query q. As rows:

    S <- a S        S <- S + k^T b (v - k S)        y = q S

`sequential` is just that, position by position. It is done in float32, whatever the layers around compute in, since
S is rounded at every position of the sequence.

Letters of its own, beside those of `models/base.py`:

    H  heads of values, each with an S      K  heads of queries and keys; each serves H/K neighbours
    P  width of a query or key              Q  width of a value
    W  positions that the convolution sees  C  its channels, 2*K*P + H*Q
    N  chunks                               T  positions of a chunk

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from runner.cache.base import State, StateCache
from runner.models import nn

CHUNK = 64  # positions


@dataclass(frozen=True)
class LinearConfig:
    key_heads: int  # K
    value_heads: int  # H
    key_width: int  # P
    value_width: int  # Q
    kernel: int  # W

    @property
    def channels(self) -> int:  # C
        return 2 * self.key_heads * self.key_width + self.value_heads * self.value_width


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

    def __call__(self, x: mx.array, cache: StateCache) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        batch, length, _ = x.shape
        mixed, gate, raw_rate, raw_decay = self.project(x)
        tail, memory = cache.state or self._nothing(batch, x.dtype)
        seen = mx.concatenate([tail, mixed], axis=1)  # [B,W-1+L,C]
        queries, keys, values = self._heads(nn.silu(self.conv1d(seen)))
        rate = mx.sigmoid(raw_rate).astype(mx.float32).transpose(0, 2, 1)  # [B,H,L]
        steps = mx.logaddexp(raw_decay.astype(mx.float32) + self.dt_bias, 0.0)  # softplus
        decay = (-mx.exp(self.A_log.astype(mx.float32)) * steps).transpose(0, 2, 1)  # [B,H,L]
        answers, memory = sequential(queries, keys, values, decay, rate, memory)
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
