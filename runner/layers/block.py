"""One layer of a decoder, put together of two halves. Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.span import Span
from runner.config.decoder import DecoderConfig
from runner.kernels import pacing
from runner.layers import nn

Attend = Callable[[mx.array, Span, LayerMemory], mx.array]
"""The first half of a block, called as `Attention` is. Every kind is an `nn.Module`."""
MLP = Callable[[mx.array], mx.array]
"""The second half of a block, [B,L,E] -> [B,L,E]. Every kind is an `nn.Module`."""


# What the halves of a block make, in sizes of what they are given: reckoned from the widths of a Llama.
FIRST_HALF, SECOND_HALF = 6, 10


class Block(nn.Module):
    """One layer: attention, then MLP, each on a normed copy and added to what came in."""

    def __init__(self, config: DecoderConfig, attention: Attend, mlp: MLP) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        x = self.attended(x, span, memory)  # [B,L,E]
        begin_second_half(x)
        return x + self.mlp(self.post_attention_layernorm(x))  # [B,L,E]

    def attended(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """The first half, [B,L,E] -> [B,L,E]."""
        begin_first_half(x)
        return x + self.self_attn(self.input_layernorm(x), span, memory)


def begin_first_half(x: mx.array) -> None:
    """Of a block that is given x; a long prompt may wait here (`kernels/pacing.py`)."""
    pacing.about_to_make(x, FIRST_HALF * x.nbytes)


def begin_second_half(x: mx.array) -> None:
    """The same of the second half, given x."""
    pacing.about_to_make(x, SECOND_HALF * x.nbytes)
