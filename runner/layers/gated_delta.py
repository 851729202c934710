"""The layer of linear attention by the gated delta rule. `kernels/delta.py` says what the rule is, and the letters.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import mlx.core as mx

from runner.cache.base import States
from runner.kernels import choice
from runner.kernels.delta import LinearConfig as LinearConfig
from runner.kernels.delta import Parts, Rule, answered, apart, sequential
from runner.layers import nn
from runner.layers.joined import Joinable
from runner.layers.shards import Cut, Shards, Side, Unit

WHOLE = "in_proj"  # all that a layer projects
SEQUENTIAL_UP_TO = 4  # positions; beyond, a chunk costs less, however little of it is used


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
        self.chunked = choice.linear_chunks()

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
        """By the heads of values, with those of keys that serve them. What is projected is the architecture's to
        add.
        """
        return Shards(
            {
                "conv1d": Cut(Side.FIRST, Unit.HEADS, self.channels),
                "dt_bias": Cut(Side.FIRST, Unit.HEADS),
                "A_log": Cut(Side.FIRST, Unit.HEADS),
                "out_proj": Cut(Side.INPUTS, Unit.HEADS),
            },
            self.config.value_heads,
            self.config.key_heads,
        )

    @property
    def channels(self) -> tuple[tuple[int, Unit], ...]:
        """Those of queries, of keys and of values, and whose they are."""
        return tuple(zip(self.config.parts, (Unit.KEY_HEADS, Unit.KEY_HEADS, Unit.HEADS), strict=True))

    def keep(self, heads: int, key_heads: int) -> None:
        self.config = replace(self.config, key_heads=key_heads, value_heads=heads)

    def __call__(self, x: mx.array, states: States) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        length = x.shape[1]
        recurrence = sequential if length <= SEQUENTIAL_UP_TO else self.chunked
        found, state = answered(self.project(x), self.rule(), states.state, recurrence)
        states.replace(state, length)
        return self.out_proj(found)
