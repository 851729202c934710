"""Gemma 4's text models (Gemma4ForCausalLM, Gemma4UnifiedForCausalLM), and the text part of its multimodal ones
(Gemma4ForConditionalGeneration, Gemma4UnifiedForConditionalGeneration): their config is `text_config`, their
tensors for images and sound are dropped.

Layers are of two kinds, as in Gemma 3: some see a window, some see everything, and these have wider heads and
rotary positions that leave most of a head alone. What only some models have:

    k_eq_v       layers that see everything have no v_proj: their values are their keys before the norm
    sharing      the last layers have no keys and values: each looks at those of the last one of its kind that has
    PLE          an embedding for each layer beside the common one, added at the end of each (per-layer embeddings)
    mixture      experts beside the MLP, both between norms of their own (`gemma4_experts.py`)

A layer that shares has no storage either: it looks at that of the layer that has, in the same forward.

Letters beside those of `models/base.py`: M layers, P width of a per-layer embedding.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.memory import Memory
from runner.cache.rotating import RotatingKVCache
from runner.cache.span import Span
from runner.config.decoder import DecoderConfig
from runner.config.fields import Fields
from runner.layers import nn
from runner.layers.block import begin_first_half, begin_second_half
from runner.layers.decoder import CausalLM, Decoder, Layer, soft_capped, storages
from runner.layers.mlp import GeGLU
from runner.layers.rope import Rope
from runner.layers.shards import Cut, Shards, Side, Unit
from runner.models.gemma4_config import Gemma4Config, Mixture
from runner.models.gemma4_experts import Experts, Router, plain_experts
from runner.models.multimodal import text_part


class Attention(nn.Module):
    """Grouped-query attention over normed queries, keys and values, whose scores need no scale then."""

    is_summed: ClassVar = True

    def __init__(self, config: Gemma4Config, layer: int, rope: Rope) -> None:
        super().__init__()
        decoder, kind = config.decoder, config.kinds[config.layers[layer]]
        hidden, eps, bias = decoder.hidden_size, decoder.rms_norm_eps, config.attention_bias
        self.heads, self.kv_heads = decoder.num_attention_heads, kind.kv_heads
        self.donor = config.donors[layer]
        self.shares = self.donor != layer
        self.scale = rope.score_scale
        self.eps = eps
        self.rope = rope
        self.q_proj = nn.Linear(hidden, self.heads * kind.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * kind.head_dim, hidden, bias=bias)
        self.q_norm = nn.RMSNorm(kind.head_dim, eps)
        if self.shares:
            return
        self.k_proj = nn.Linear(hidden, self.kv_heads * kind.head_dim, bias=bias)
        self.k_norm = nn.RMSNorm(kind.head_dim, eps)
        if not kind.k_eq_v:
            self.v_proj = nn.Linear(hidden, self.kv_heads * kind.head_dim, bias=bias)

    def shards(self) -> Shards:
        cuts = {
            "q_proj": Cut(Side.OUTPUTS, Unit.HEADS),
            "k_proj": Cut(Side.OUTPUTS, Unit.KEY_HEADS),
            "v_proj": Cut(Side.OUTPUTS, Unit.KEY_HEADS),
            "o_proj": Cut(Side.INPUTS, Unit.HEADS),
        }
        return Shards(cuts, self.heads, self.kv_heads)

    def keep(self, heads: int, key_heads: int) -> None:
        self.heads, self.kv_heads = heads, key_heads

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        batch, length, _ = x.shape
        queries = self.q_norm(self.q_proj(x).reshape(batch, length, self.heads, -1))  # [B,L,H,D]
        queries = self.rope(queries.transpose(0, 2, 1, 3), span)  # [B,H,L,D]
        storage = memory.attention[self.donor]
        if self.shares:
            found = storage.look(queries, span, scale=self.scale)  # [B,H,L,D]
        else:
            found = storage.attend(queries, *self.project(x, span), span, scale=self.scale)
        return self.o_proj(found.transpose(0, 2, 1, 3).flatten(-2))

    def project(self, x: mx.array, span: Span) -> tuple[mx.array, mx.array]:
        """[B,L,E] -> keys and values [B,K,L,D]; the norm of values has no weights."""
        batch, length, _ = x.shape
        keys = self.k_proj(x).reshape(batch, length, self.kv_heads, -1)  # [B,L,K,D]
        values = self.v_proj(x).reshape(keys.shape) if "v_proj" in self else keys
        values = mx.fast.rms_norm(values, None, self.eps)
        keys = self.rope(self.k_norm(keys).transpose(0, 2, 1, 3), span)
        return keys, values.transpose(0, 2, 1, 3)


class Block(nn.Module):
    """Attention, then MLP, each between two norms and added to what came in; then the layer's own embedding."""

    def __init__(self, config: Gemma4Config, layer: int, rope: Rope) -> None:
        super().__init__()
        decoder = config.decoder
        hidden, eps = decoder.hidden_size, decoder.rms_norm_eps
        self.self_attn = Attention(config, layer, rope)
        factor = 2 if config.wide and self.self_attn.shares else 1
        self.mlp = GeGLU(replace(decoder, intermediate_size=factor * decoder.intermediate_size))
        self.input_layernorm = nn.RMSNorm(hidden, eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(hidden, eps)
        self.post_feedforward_layernorm = nn.RMSNorm(hidden, eps)
        self.layer_scalar = mx.ones((1,))
        if config.ple_width:
            self.per_layer_input_gate = nn.Linear(hidden, config.ple_width, bias=False)
            self.per_layer_projection = nn.Linear(config.ple_width, hidden, bias=False)
            self.post_per_layer_input_norm = nn.RMSNorm(hidden, eps)

    def __call__(self, x: mx.array, own: mx.array | None, span: Span, memory: LayerMemory) -> mx.array:
        """[B,L,E] and this layer's embeddings [B,L,P], if there are any -> [B,L,E]."""
        begin_first_half(x)
        attended = self.self_attn(self.input_layernorm(x), span, memory)  # [B,L,E]
        x = x + self.post_attention_layernorm(attended)
        begin_second_half(x)
        x = x + self.post_feedforward_layernorm(self.feed(x))
        if own is not None:
            gated = self.mlp.activations.gelu(self.per_layer_input_gate(x)) * own  # [B,L,P]
            x = x + self.post_per_layer_input_norm(self.per_layer_projection(gated))
        return x * self.layer_scalar.astype(x.dtype)

    def feed(self, x: mx.array) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        return self.mlp(self.pre_feedforward_layernorm(x))


class MixtureBlock(Block):
    """A Block with experts beside the MLP: both get x through norms of their own, and their outputs are added."""

    def __init__(self, config: Gemma4Config, mixture: Mixture, layer: int, rope: Rope) -> None:
        super().__init__(config, layer, rope)
        hidden, eps = config.decoder.hidden_size, config.decoder.rms_norm_eps
        self.router = Router(hidden, eps, experts=mixture.experts, active=mixture.active)
        self.experts = Experts(hidden, mixture.width, mixture.experts)
        self.post_feedforward_layernorm_1 = nn.RMSNorm(hidden, eps)
        self.pre_feedforward_layernorm_2 = nn.RMSNorm(hidden, eps)
        self.post_feedforward_layernorm_2 = nn.RMSNorm(hidden, eps)

    def feed(self, x: mx.array) -> mx.array:
        dense = self.post_feedforward_layernorm_1(super().feed(x))  # [B,L,E]
        tokens = x.reshape(-1, x.shape[-1])  # [T,E]
        chosen, shares = self.router(tokens)  # [T,A]
        mixed = self.experts(self.pre_feedforward_layernorm_2(tokens), chosen, shares)  # [T,E]
        both: mx.array = dense + self.post_feedforward_layernorm_2(mixed.reshape(x.shape))
        return both


class PerLayerDecoder(Decoder):
    """Scaled embeddings, those of each layer, blocks that share, norm."""

    def __init__(self, config: DecoderConfig, blocks: Sequence[Layer], ple: tuple[int, int]) -> None:
        super().__init__(config, blocks)
        hidden = config.hidden_size
        rows, self.width = ple
        self.root = math.sqrt(hidden)
        if self.width:
            width = len(blocks) * self.width
            self.embed_tokens_per_layer = nn.Embedding(rows, width)
            self.per_layer_model_projection = nn.Linear(hidden, width, bias=False)
            self.per_layer_projection_norm = nn.RMSNorm(self.width, config.rms_norm_eps)

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        x = self.embed(tokens)  # [B,L,E]
        own = self.embed_per_layer(tokens, x)
        with self.paced(tokens):
            for layer, embedded in zip(self.layers, own, strict=True):
                x = layer(x, embedded, span, memory)
        normed: mx.array = self.norm(x)
        return normed

    def embed(self, tokens: mx.array) -> mx.array:
        # The factor is rounded to the dtype that is computed in, as transformers does.
        return super().embed(tokens) * self.root

    def embed_per_layer(self, tokens: mx.array, x: mx.array) -> Sequence[mx.array | None]:
        """[B,L] and their embeddings [B,L,E] -> for each layer [B,L,P]: half a table, half projected."""
        if not self.width:
            return [None] * len(self.layers)
        shape = (*tokens.shape, len(self.layers), self.width)  # [B,L,M,P]
        table = self.embed_tokens_per_layer(tokens).reshape(shape) * math.sqrt(self.width)
        projected = (self.per_layer_model_projection(x) / self.root).reshape(shape)
        both = (self.per_layer_projection_norm(projected) + table) * math.sqrt(0.5)
        return [both[:, :, layer] for layer in range(len(self.layers))]


class Model(CausalLM):
    def __init__(self, fields: Fields) -> None:
        read = Gemma4Config.read(fields)
        ropes = {name: Rope(kind.rope, kind.head_dim) for name, kind in read.kinds.items()}
        blocks = [block(read, layer, ropes[kind]) for layer, kind in enumerate(read.layers)]
        ple = (read.ple_rows, read.ple_width)
        super().__init__(read.decoder, blocks, read.windows, partial(PerLayerDecoder, ple=ple))
        self._owners = read.owners
        self._mixture = read.mixture
        self._logit_cap = read.logit_cap
        self._multimodal = fields.mapping("text_config") is not None

    def logits(self, hidden: mx.array) -> mx.array:
        return soft_capped(super().logits(hidden), self._logit_cap)

    def make_memory(self) -> Memory:
        return Memory(attention=storages(self._windows[: self._owners], RotatingKVCache))

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Beside what CausalLM does: the newer prefix `model.language_model.`, one spelling of experts, no keys
        and values where a layer shares (published files have them), and, in a multimodal model, no media.
        """
        renamed = super().rename(text_part(weights, MEDIA if self._multimodal else ()))
        if self._mixture is not None:
            renamed = plain_experts(renamed, self._mixture.experts)
        return {name: array for name, array in renamed.items() if not self._is_unused(name)}

    def _is_unused(self, name: str) -> bool:
        found = KEYS_OR_VALUES.match(name)
        return found is not None and int(found[1]) >= self._owners


def block(config: Gemma4Config, layer: int, rope: Rope) -> Block:
    mixture = config.mixture
    return Block(config, layer, rope) if mixture is None else MixtureBlock(config, mixture, layer, rope)


KEYS_OR_VALUES = re.compile(r"model\.layers\.(\d{1,6})\.self_attn\.(k_proj|v_proj|k_norm)\.")
MEDIA = (
    *("vision_tower.", "vision_embedder.", "embed_vision.", "multi_modal_projector."),
    *("audio_tower.", "embed_audio."),
)
