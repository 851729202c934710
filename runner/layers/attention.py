"""Grouped-query attention, which architectures vary. Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.base import LayerCache, Mask
from runner.config.fields import DecoderConfig
from runner.layers import nn
from runner.layers.rope import Rope


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: H/K query heads share a key/value head."""

    def __init__(self, config: DecoderConfig, rope: Rope, *, qkv_bias: bool, o_bias: bool) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale = head_dim**-0.5 * rope.score_scale
        self.rope = rope
        self.q_proj = nn.Linear(hidden, self.heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(self.heads * head_dim, hidden, bias=o_bias)

    def __call__(self, x: mx.array, mask: Mask, cache: LayerCache, offset: mx.array) -> mx.array:
        """[B,L,E] -> [B,L,E]; `offset` is the cache's, as an int32 scalar shared by all layers."""
        queries, keys, values = self.project(x)
        return self.attend(queries, keys, values, mask, cache, offset)

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """[B,L,E] -> queries [B,L,H,D], keys [B,L,K,D], values [B,L,K,D]."""
        batch, length, _ = x.shape
        queries = self.q_proj(x).reshape(batch, length, self.heads, -1)
        keys = self.k_proj(x).reshape(batch, length, self.kv_heads, -1)
        values = self.v_proj(x).reshape(batch, length, self.kv_heads, -1)
        return queries, keys, values

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        mask: Mask,
        cache: LayerCache,
        offset: mx.array,
    ) -> mx.array:
        """Rotate, remember, attend: the shapes of `project` -> [B,L,E]."""
        batch, length, _, _ = queries.shape
        queries = self.rope(queries.transpose(0, 2, 1, 3), offset)  # [B,H,L,D]
        keys = self.rope(keys.transpose(0, 2, 1, 3), offset)  # [B,K,L,D]
        keys, values = cache.update(keys, values.transpose(0, 2, 1, 3))  # [B,K,S,D]
        out = self.look(queries, keys, values, mask)  # [B,H,L,D]
        joined = out.transpose(0, 2, 1, 3).reshape(batch, length, -1)  # [B,L,H*D]
        return self.o_proj(joined)

    def look(self, queries: mx.array, keys: mx.array, values: mx.array, mask: Mask) -> mx.array:
        """[B,H,L,D] over [B,K,S,D] -> [B,H,L,D]."""
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)
