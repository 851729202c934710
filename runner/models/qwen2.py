"""Qwen2, Qwen2.5, QwQ, and what was published in their shape (Qwen2ForCausalLM).

A Llama whose queries, keys and values always have a bias and whose output projection never has one.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_sliding_window, read_windows
from runner.config.fields import MAX_LAYERS, Fields
from runner.config.rope import RopeConfig
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.mlp import GatedMLP
from runner.layers.rope import Rope


@dataclass(frozen=True)
class Qwen2Config:
    decoder: DecoderConfig
    rope: RopeConfig
    windows: tuple[int | None, ...]

    @classmethod
    def read(cls, fields: Fields) -> Qwen2Config:
        fields.ignore("attention_bias", "qkv_bias", "use_qkv_bias")  # its biases are where they are
        decoder = DecoderConfig.read(fields, positions=32_768, kv_heads=32)
        return cls(
            decoder=decoder,
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
            windows=read_upper_windows(fields, decoder),
        )


def read_upper_windows(fields: Fields, decoder: DecoderConfig) -> tuple[int | None, ...]:
    """Qwen's rule: with `use_sliding_window`, the layers from `max_window_layers` up see a window."""
    used = fields.flag("use_sliding_window", False)
    window = read_sliding_window(fields) if used else None
    lowest = fields.integer("max_window_layers", 28, low=0, high=MAX_LAYERS)
    layers = range(decoder.num_hidden_layers)
    default = [SLIDING if window is not None and layer >= lowest else FULL for layer in layers]
    return read_windows(fields, decoder, window, default)


def attention(config: Qwen2Config, layer: int, rope: Rope) -> Attention:
    return Attention(config.decoder, layer, rope, qkv_bias=True, o_bias=False)


def mlp(config: Qwen2Config) -> GatedMLP:
    return GatedMLP(config.decoder)


def block(config: Qwen2Config, layer: int, rope: Rope) -> Block:
    return Block(config.decoder, attention(config, layer, rope), mlp(config))


class Model(CausalLM):
    """`rename` is CausalLM's: checkpoint keys are attribute paths already."""

    def __init__(self, fields: Fields) -> None:
        read = Qwen2Config.read(fields)
        rope = Rope(read.rope, read.decoder.head_dim)
        blocks = [block(read, layer, rope) for layer in range(read.decoder.num_hidden_layers)]
        super().__init__(read.decoder, blocks, read.windows)
