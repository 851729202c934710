"""Grouped-query attention, which architectures vary. Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from typing import ClassVar

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.span import Span
from runner.config.decoder import DecoderConfig
from runner.layers import nn
from runner.layers.joined import Joinable
from runner.layers.rope import Rope
from runner.layers.shards import Cut, Shards, Side, Unit


class Attention(Joinable):
    """Grouped-query attention with rotary positions: H/K query heads share a key/value head."""

    joins: ClassVar = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
    is_summed: ClassVar = True
    head_norms: ClassVar[tuple[str, str] | None] = None
    """The names of the norms of queries' and keys' heads, where there are some."""
    is_gated: ClassVar = False
    """Whether q_proj gives, behind the query of each head, a gate for what the head finds."""

    def __init__(
        self, config: DecoderConfig, layer: int, rope: Rope, *, qkv_bias: bool, o_bias: bool
    ) -> None:
        """layer: its number, under which it finds its storage in a memory."""
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.layer = layer
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale = head_dim**-0.5 * rope.score_scale
        self.rope = rope
        self.q_proj = nn.Linear(hidden, self.heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(self.heads * head_dim, hidden, bias=o_bias)

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        found = self.attend(*self.project(x), span, memory)
        return self.o_proj(found.flatten(-2))

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """[B,L,E] -> queries [B,L,H,D], keys [B,L,K,D], values [B,L,K,D]."""
        batch, length, _ = x.shape
        queries, keys, values = self.outputs("qkv_proj", x)
        queries = queries.reshape(batch, length, self.heads, -1)
        keys = keys.reshape(batch, length, self.kv_heads, -1)
        if self.head_norms is not None:
            query_norm, key_norm = self.head_norms
            queries, keys = self[query_norm](queries), self[key_norm](keys)
        return queries, keys, values.reshape(batch, length, self.kv_heads, -1)

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, span: Span, memory: LayerMemory
    ) -> mx.array:
        """Rotate, remember, attend: the shapes of `project` -> [B,L,H,D]."""
        queries = self.rope(queries.transpose(0, 2, 1, 3), span)  # [B,H,L,D]
        keys = self.rope(keys.transpose(0, 2, 1, 3), span)  # [B,K,L,D]
        values = values.transpose(0, 2, 1, 3)  # [B,K,L,D]
        storage, sinks = memory.attention[self.layer], self.sink_logits(queries.dtype)
        found = storage.attend(queries, keys, values, span, scale=self.scale, sinks=sinks)
        return found.transpose(0, 2, 1, 3)

    def shards(self) -> Shards:
        return Shards(
            {
                "q_proj": Cut(Side.OUTPUTS, Unit.HEADS),
                "k_proj": Cut(Side.OUTPUTS, Unit.KEY_HEADS),
                "v_proj": Cut(Side.OUTPUTS, Unit.KEY_HEADS),
                "o_proj": Cut(Side.INPUTS, Unit.HEADS),
            },
            self.heads,
            self.kv_heads,
        )

    def keep(self, heads: int, key_heads: int) -> None:
        self.heads, self.kv_heads = heads, key_heads

    @property
    def is_plain(self) -> bool:
        """Whether it is what this file says and nothing else, but for a gate where it says so."""
        return all(getattr(type(self), name) is getattr(Attention, name) for name in WHAT_IT_DOES)

    def head_norm_weights(self) -> tuple[tuple[mx.array, mx.array] | None, float]:
        """The weights [D] of the head norms, and their epsilon."""
        if self.head_norms is None:
            return None, 0.0
        query_norm, key_norm = (self[name] for name in self.head_norms)
        return (query_norm.weight, key_norm.weight), query_norm.eps

    def sink_logits(self, dtype: mx.Dtype) -> mx.array | None:
        """For each head the logit of looking at nothing [H]; None where there is no such thing."""
        return None


WHAT_IT_DOES = ("__call__", "project", "attend", "sink_logits")
