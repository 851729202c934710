"""Qwen3-Next (Qwen3NextForCausalLM and its kin), and what Qwen3.5 shares with it.

Most layers are linear attention (`layers/gated_delta.py`), every fourth is full attention with a gate on its
output. MLPs are mixtures of experts beside one expert that every token uses, or dense.

Files come in two layouts. Published ones have a convolution as [C,1,W] and most norms as what they add to 1;
converted ones (mlx-lm's, the host's) have [C,W,1] and whole norms. The convolution tells which: a layout that both
could be, W = 1, is refused, and so is a model without one. (Tensors for predicting several tokens at once are no
sign: converters drop them or not.)

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.kv import KVCache
from runner.cache.memory import Memory
from runner.cache.recurrent import RecurrentCache
from runner.cache.span import Span
from runner.config.decoder import DecoderConfig
from runner.config.fields import Fields
from runner.errors import BadModelFiles
from runner.layers import moe, nn
from runner.layers.attention import Attention
from runner.layers.block import MLP, Block
from runner.layers.decoder import CausalLM, Decoder, Layer
from runner.layers.gated_delta import GatedDeltaNet
from runner.layers.linear_block import LinearBlock
from runner.layers.mlp import GatedMLP
from runner.layers.norms import ZeroCentredNorm, whole_weight
from runner.layers.rope import Rope
from runner.layers.shards import Cut, Shards, Side, Unit
from runner.layers.shared_expert import SharedSparseMLP
from runner.models.multimodal import text_part
from runner.models.qwen3_moe import read_sparse
from runner.models.qwen3_next_config import RECURRENT, HybridConfig, MixtureConfig, text_fields


class GatedAttention(Attention):
    """Grouped-query attention over normed queries and keys, whose output goes through a gate, number by number."""

    is_gated: ClassVar = True

    def __init__(self, config: HybridConfig, layer: int, rope: Rope) -> None:
        bias = config.attention_bias
        super().__init__(config.decoder, layer, rope, qkv_bias=bias, o_bias=bias)
        hidden, head_dim, eps = (
            config.decoder.hidden_size,
            config.decoder.head_dim,
            config.decoder.rms_norm_eps,
        )
        self.q_proj = nn.Linear(hidden, 2 * self.heads * head_dim, bias=bias)  # of each head, query and gate
        self.q_norm = ZeroCentredNorm(head_dim, eps)
        self.k_norm = ZeroCentredNorm(head_dim, eps)

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        both, keys, values = self.project(x)  # [B,L,H,2*D], [B,L,K,D], [B,L,K,D]
        queries, gate = mx.split(both, 2, axis=-1)  # [B,L,H,D]
        found = self.attend(self.q_norm(queries), self.k_norm(keys), values, span, memory)  # [B,L,H,D]
        return self.o_proj((found * mx.sigmoid(gate)).flatten(-2))

    @property
    def is_plain(self) -> bool:
        return True

    def head_norm_weights(self) -> tuple[tuple[mx.array, mx.array] | None, float]:
        return (self.q_norm.weight, self.k_norm.weight), self.q_norm.eps


class LinearAttention(GatedDeltaNet):
    """Projected in two, each with the parts of one key head behind those of the other."""

    joins: ClassVar = {"in_proj": ("in_proj_qkvz", "in_proj_ba")}
    is_grouped: ClassVar = True

    def __init__(self, config: HybridConfig) -> None:
        linear, hidden = config.linear, config.decoder.hidden_size
        super().__init__(linear, hidden, config.decoder.rms_norm_eps)
        gate = linear.value_heads * linear.value_width
        self.in_proj_qkvz = nn.Linear(hidden, linear.channels + gate, bias=False)
        self.in_proj_ba = nn.Linear(hidden, 2 * linear.value_heads, bias=False)

    def shards(self) -> Shards:
        said, config = super().shards(), self.config
        each = config.value_heads // config.key_heads
        key, values = (config.key_width, Unit.KEY_HEADS), (each * config.value_width, Unit.HEADS)
        projected = {
            "in_proj_qkvz": Cut(Side.OUTPUTS, Unit.KEY_HEADS, (key, key, values, values), by_key_heads=True),
            "in_proj_ba": Cut(Side.OUTPUTS, Unit.KEY_HEADS, ((each, Unit.HEADS),) * 2, by_key_heads=True),
        }
        return said._replace(cuts={**said.cuts, **projected})


def sparse_mlp(decoder: DecoderConfig, config: MixtureConfig) -> SharedSparseMLP:
    return SharedSparseMLP(
        decoder,
        config.expert_width,
        config.shared_width,
        experts=config.experts,
        active=config.active,
        normalized=config.normalized,
    )


class AttentionBlock(Block):
    """A layer of full attention."""

    def __init__(self, config: DecoderConfig, attention: GatedAttention, mlp: MLP) -> None:
        super().__init__(config, attention, mlp)
        self.input_layernorm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)


class ZeroCentredDecoder(Decoder):
    """Its last norm is of the kind that the blocks have."""

    def __init__(self, config: DecoderConfig, blocks: Sequence[Layer]) -> None:
        super().__init__(config, blocks)
        self.norm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)


class HybridModel(CausalLM):
    """A decoder of both kinds of layers."""

    def __init__(
        self,
        config: HybridConfig,
        linear: Callable[[HybridConfig], GatedDeltaNet],
        mlp: Callable[[int], MLP],
        experts: int = 0,
    ) -> None:
        """`mlp` makes that of a layer; `experts` is how many there are in those that have any."""
        rope = Rope(config.rope, config.decoder.head_dim)

        def block(layer: int) -> Layer:
            if config.windows[layer] == RECURRENT:
                return LinearBlock(config.decoder, layer, linear(config), mlp(layer))
            return AttentionBlock(config.decoder, GatedAttention(config, layer, rope), mlp(layer))

        blocks = [block(layer) for layer in range(config.decoder.num_hidden_layers)]
        super().__init__(config.decoder, blocks, config.windows, ZeroCentredDecoder)
        self._experts = experts

    def make_memory(self) -> Memory:
        recurrent = [layer for layer, window in enumerate(self._windows) if window == RECURRENT]
        attention = [layer for layer, window in enumerate(self._windows) if window != RECURRENT]
        return Memory(
            attention={layer: KVCache() for layer in attention},
            recurrent={layer: RecurrentCache() for layer in recurrent},
        )

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Beside what CausalLM does: no vision and no further tokens, the newer prefix `model.language_model.`,
        experts joined, and convolutions and norms as in converted files.
        """
        renamed = super().rename(text_part(weights, UNUSED))
        if self._experts:
            renamed = moe.join_experts(renamed, self._experts)
        return as_converted(renamed)


UNUSED = ("mtp.", "language_model.mtp.", "visual.", "vision_tower.")


def as_converted(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Published convolutions and norms in the layout of converted files; see the head of this module."""
    convolutions = [name for name in weights if name.endswith(".conv1d.weight") and weights[name].ndim == 3]
    published = {weights[name].shape[-1] != 1 for name in convolutions}
    if len(published) > 1:
        raise BadModelFiles("conv1d.weight tensors are in two layouts: what their norms mean cannot be told")
    if published != {True}:
        return weights
    moved = {name: weights[name].moveaxis(2, 1) for name in convolutions}
    whole = {n: whole_weight(array) for n, array in weights.items() if n.endswith(CENTRED)}
    return weights | moved | whole


CENTRED = (
    *("input_layernorm.weight", "post_attention_layernorm.weight"),
    *("q_norm.weight", "k_norm.weight", "model.norm.weight"),
)
"""The norms that are stored around 0. That of linear attention's answers (`linear_attn.norm`) is not."""


class Model(HybridModel):
    def __init__(self, fields: Fields) -> None:
        fields = text_fields(fields, {})
        read = HybridConfig.read(fields, kv_heads=2)
        mixture = MixtureConfig.read(
            fields, experts=512, active=10, normalized=fields.flag("norm_topk_prob", True)
        )
        sparse = read_sparse(fields, read.decoder.num_hidden_layers, mixture.experts)

        def mlp(layer: int) -> MLP:
            return sparse_mlp(read.decoder, mixture) if sparse[layer] else GatedMLP(read.decoder)

        super().__init__(read, LinearAttention, mlp, mixture.experts)
