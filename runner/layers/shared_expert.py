"""A mixture of experts beside one that every token uses, in a measure of its own (Qwen2-MoE and what followed it).

Letters are those of `layers/moe.py`.

Knows nothing about caches, tokens or requests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import mlx.core as mx

from runner.config.decoder import DecoderConfig
from runner.layers import nn
from runner.layers.joined import Joinable
from runner.layers.mlp import GatedMLP
from runner.layers.moe import SparseMLP


class SharedSparseMLP(SparseMLP, Joinable):
    """The mixture's output, and that of the shared expert by the sigmoid of one more logit."""

    joins: ClassVar = {"router": ("gate", "shared_expert_gate")}

    def __init__(
        self, config: DecoderConfig, width: int, shared: int, *, experts: int, active: int, normalized: bool
    ) -> None:
        """width, shared: F of an expert and of the shared one."""
        super().__init__(config.hidden_size, width, experts=experts, active=active, normalized=normalized)
        self.shared_expert = GatedMLP(replace(config, intermediate_size=shared))
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        logits, measure = self.outputs("router", x)  # [B,L,N], [B,L,1]
        return self.mixed(x, logits) + mx.sigmoid(measure) * self.shared_expert(x)  # [B,L,E]
