"""Gemma 3's text models (Gemma3ForCausalLM), and the text part of its multimodal ones
(Gemma3ForConditionalGeneration): their config is `text_config`, their vision tensors are dropped.

Five layers see a window, the sixth sees everything, and each kind has rotary positions of its own. Norms multiply
by 1 + weight, and stand before and behind both halves of a block.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.memory import Memory
from runner.cache.rotating import RotatingKVCache
from runner.cache.span import Span
from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_sliding_window, read_windows
from runner.config.fields import MAX_LAYERS, Config, Fields, shown
from runner.config.rope import RopeConfig
from runner.errors import UnsupportedModel
from runner.layers.attention import Attention
from runner.layers.block import Block, begin_first_half, begin_second_half
from runner.layers.decoder import CausalLM, Decoder, Layer, soft_capped, storages
from runner.layers.mlp import GeGLU
from runner.layers.norms import ZeroCentredNorm, whole_weight
from runner.layers.rope import Rope
from runner.models.multimodal import text_part

DEFAULTS: Config = {"vocab_size": 262_208, "num_attention_heads": 8}
"""Sizes are not guessed elsewhere, but Google's own multimodal files leave these out."""

DEFAULT_THETA = {FULL: 1_000_000.0, SLIDING: 10_000.0}
ACTIVATION = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class Gemma3Config:
    decoder: DecoderConfig
    kinds: tuple[str, ...]  # of each layer
    windows: tuple[int | None, ...]
    ropes: dict[str, RopeConfig]  # of each kind
    scale: float  # of attention
    attention_bias: bool
    logit_cap: float | None

    @classmethod
    def read(cls, fields: Fields) -> Gemma3Config:
        fields = fields.section("text_config") or fields
        fields = fields.with_values(_text_fields(fields.values))
        refuse_unsupported(fields)
        decoder = DecoderConfig.read(fields, positions=131_072, kv_heads=4, head_dim=256)
        window = read_sliding_window(fields)
        kinds = read_kinds(fields, decoder.num_hidden_layers)
        return cls(
            # A head that is there counts, whatever the flag says: `rename` settles it.
            decoder=replace(decoder, tie_word_embeddings=False),
            windows=read_windows(fields, decoder, window, default=kinds),
            kinds=kinds,
            ropes=read_ropes(fields, decoder),
            scale=fields.number("query_pre_attn_scalar", 256) ** -0.5,
            attention_bias=fields.flag("attention_bias", False),
            logit_cap=fields.number("final_logit_softcapping") if capped(fields) else None,
        )


def _text_fields(values: Config) -> Config:
    """With defaults, and without `hidden_act`: the activation's name is `hidden_activation` here."""
    given = {name: value for name, value in values.items() if value is not None and name != "hidden_act"}
    if "sliding_window" in values:
        given["sliding_window"] = values["sliding_window"]  # null is a value of its own
    return DEFAULTS | given


def check_gelu(fields: Fields) -> None:
    activation = fields.text("hidden_activation", ACTIVATION)
    if activation != ACTIVATION:
        raise UnsupportedModel(
            f"config.json: hidden_activation {shown(activation)} is not supported, only {ACTIVATION} is"
        )


def refuse_unsupported(fields: Fields) -> None:
    check_gelu(fields)
    if fields.flag("use_bidirectional_attention", False):
        raise UnsupportedModel(
            "config.json: use_bidirectional_attention is not supported: it is no generator's"
        )
    if fields.optional_number("attn_logit_softcapping") is not None:
        raise UnsupportedModel("config.json: attn_logit_softcapping is not supported")


def capped(fields: Fields) -> bool:
    return fields.optional_number("final_logit_softcapping") is not None


def read_kinds(fields: Fields, count: int) -> tuple[str, ...]:
    """`layer_types`, or what older files have: every `sliding_window_pattern`-th layer sees everything."""
    pattern = fields.integer("sliding_window_pattern", 6, high=MAX_LAYERS)
    given = fields.optional_texts("layer_types")
    default = (SLIDING if (layer + 1) % pattern else FULL for layer in range(count))
    return tuple(default if given is None else given)


def read_ropes(fields: Fields, decoder: DecoderConfig) -> dict[str, RopeConfig]:
    """Newer files have one object for each kind inside `rope_parameters`. In older ones `rope_theta` and
    `rope_scaling` belong to the layers that see everything, `rope_local_base_freq` to the others.
    """
    newer = fields.mapping("rope_parameters") or {}
    for name in newer:
        if name not in DEFAULT_THETA:
            raise UnsupportedModel(
                f"config.json: rope_parameters has {shown(name)}, expected {FULL} and {SLIDING} only"
            )
    inside = Fields(newer, "config.json: rope_parameters")
    beside: dict[str, Config] = {
        FULL: {"rope_theta": fields.number("rope_theta", DEFAULT_THETA[FULL], above=1)},
        SLIDING: {"rope_theta": fields.number("rope_local_base_freq", DEFAULT_THETA[SLIDING], above=1)},
    }
    scaling: dict[str, Config] = {FULL: fields.mapping("rope_scaling") or {}, SLIDING: {}}

    def one(kind: str) -> RopeConfig:
        given = (inside.mapping(kind) or {}) | scaling[kind]
        merged = beside[kind] | {name: value for name, value in given.items() if value is not None}
        return RopeConfig.read(
            Fields({"rope_parameters": merged}), decoder.head_dim, decoder.max_position_embeddings
        )

    return {kind: one(kind) for kind in DEFAULT_THETA}


class NormedAttention(Attention):
    """Grouped-query attention over normed queries and keys, with a scale of its own."""

    def __init__(self, config: Gemma3Config, layer: int, rope: Rope) -> None:
        bias = config.attention_bias
        super().__init__(config.decoder, layer, rope, qkv_bias=bias, o_bias=bias)
        self.scale = config.scale * rope.score_scale
        self.q_norm = ZeroCentredNorm(config.decoder.head_dim, config.decoder.rms_norm_eps)
        self.k_norm = ZeroCentredNorm(config.decoder.head_dim, config.decoder.rms_norm_eps)

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = super().project(x)
        return self.q_norm(queries), self.k_norm(keys), values


class SandwichBlock(Block):
    """Attention, then MLP, each between two norms and added to what came in."""

    def __init__(self, config: Gemma3Config, layer: int, rope: Rope) -> None:
        super().__init__(config.decoder, NormedAttention(config, layer, rope), GeGLU(config.decoder))
        hidden, eps = config.decoder.hidden_size, config.decoder.rms_norm_eps
        self.input_layernorm = ZeroCentredNorm(hidden, eps)
        self.post_attention_layernorm = ZeroCentredNorm(hidden, eps)
        self.pre_feedforward_layernorm = ZeroCentredNorm(hidden, eps)
        self.post_feedforward_layernorm = ZeroCentredNorm(hidden, eps)

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        begin_first_half(x)
        attended = self.self_attn(self.input_layernorm(x), span, memory)  # [B,L,E]
        x = x + self.post_attention_layernorm(attended)  # [B,L,E]
        begin_second_half(x)
        changed = self.mlp(self.pre_feedforward_layernorm(x))  # [B,L,E]
        return x + self.post_feedforward_layernorm(changed)  # [B,L,E]


class ScaledDecoder(Decoder):
    """The embedding is scaled where it comes in, not where it is the head."""

    def __init__(self, config: DecoderConfig, blocks: Sequence[Layer]) -> None:
        super().__init__(config, blocks)
        self.norm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.scale = config.hidden_size**0.5

    def embed(self, tokens: mx.array) -> mx.array:
        embedded = super().embed(tokens)
        # Rounded to the dtype that is computed in, as transformers does (mlx-lm rounds to bfloat16 always).
        return embedded * mx.array(self.scale, embedded.dtype)


class Model(CausalLM):
    def __init__(self, fields: Fields) -> None:
        read = Gemma3Config.read(fields)
        ropes = {kind: Rope(rope, read.decoder.head_dim) for kind, rope in read.ropes.items()}
        blocks = [SandwichBlock(read, layer, ropes[kind]) for layer, kind in enumerate(read.kinds)]
        super().__init__(read.decoder, blocks, read.windows, ScaledDecoder)
        self._logit_cap = read.logit_cap
        self._multimodal = fields.mapping("text_config") is not None

    def logits(self, hidden: mx.array) -> mx.array:
        return soft_capped(super().logits(hidden), self._logit_cap)

    def make_memory(self) -> Memory:
        return Memory(attention=storages(self._windows, RotatingKVCache))

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Beside what CausalLM does: the newer prefix `model.language_model.`, the 1 of the norms, and, in a
        multimodal model, no vision.
        """
        text = text_part(weights, VISION if self._multimodal else ())
        return {
            name: whole_weight(array) if name.endswith("norm.weight") else array
            for name, array in super().rename(text).items()
        }


VISION = ("vision_tower.", "multi_modal_projector.")
