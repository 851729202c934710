"""The dense MLPs that architectures share: one product of the input gates another. Shapes: see the legend in
`models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from typing import ClassVar

import mlx.core as mx

from runner.config.decoder import DecoderConfig
from runner.kernels import choice
from runner.layers import nn
from runner.layers.joined import Joinable
from runner.layers.shards import BY_WIDTH, Shards


class GatedMLP(Joinable):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    joins: ClassVar = {"gate_up_proj": ("gate_proj", "up_proj")}
    is_summed: ClassVar = True

    def __init__(self, config: DecoderConfig, *, bias: bool = False) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, width, bias=bias)
        self.up_proj = nn.Linear(hidden, width, bias=bias)
        self.down_proj = nn.Linear(width, hidden, bias=bias)
        self.activations = choice.activations()

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.outputs("gate_up_proj", x)  # [B,L,F]
        return self.down_proj(self.activations.swiglu(gate, up))  # [B,L,E]

    def shards(self) -> Shards:
        return Shards(BY_WIDTH)

    def keep(self, heads: int, key_heads: int) -> None:
        """Its width is that of its weights."""


class GeGLU(GatedMLP):
    """GeGLU (Shazeer 2020, arXiv 2002.05202) with the tanh form of GELU: down(gelu(gate(x)) * up(x))."""

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.outputs("gate_up_proj", x)  # [B,L,F]
        return self.down_proj(self.activations.gelu(gate) * up)  # [B,L,E]
