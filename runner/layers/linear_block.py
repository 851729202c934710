"""A layer of linear attention and an MLP. Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.span import Span
from runner.config.decoder import DecoderConfig
from runner.layers import nn
from runner.layers.block import MLP, begin_first_half, begin_second_half
from runner.layers.gated_delta import GatedDeltaNet
from runner.layers.norms import ZeroCentredNorm


class LinearBlock(nn.Module):
    """A block whose attention is linear: what came before is in its state, so it needs no positions."""

    def __init__(self, config: DecoderConfig, layer: int, attention: GatedDeltaNet, mlp: MLP) -> None:
        """layer: its number, under which it finds its states in a memory."""
        super().__init__()
        self.layer = layer
        self.linear_attn = attention
        self.mlp = mlp
        self.input_layernorm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        x = self.attended(x, span, memory)  # [B,L,E]
        begin_second_half(x)
        return x + self.mlp(self.post_attention_layernorm(x))  # [B,L,E]

    def attended(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """The first half, [B,L,E] -> [B,L,E]."""
        begin_first_half(x)
        return x + self.linear_attn(self.input_layernorm(x), memory.recurrent[self.layer])
