"""Mistral 7B, Nemo, and what was published in their shape (MistralForCausalLM).

A Llama without biases whose layers may see only a window: all of them if `sliding_window` is a number (v0.1), none
if it is null (v0.2 and later), or those that `layer_types` names. transformers' own class overlooks that list, but
warns that such a model needs another class.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_sliding_window, read_windows
from runner.config.fields import Fields
from runner.config.rope import RopeConfig
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.mlp import GatedMLP
from runner.layers.rope import Rope


@dataclass(frozen=True)
class MistralConfig:
    decoder: DecoderConfig
    rope: RopeConfig
    windows: tuple[int | None, ...]

    @classmethod
    def read(cls, fields: Fields) -> MistralConfig:
        decoder = DecoderConfig.read(fields, positions=131_072, kv_heads=8)
        window = read_sliding_window(fields)
        kind = FULL if window is None else SLIDING
        return cls(
            decoder=decoder,
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
            windows=read_windows(fields, decoder, window, default=[kind] * decoder.num_hidden_layers),
        )


def attention(config: MistralConfig, layer: int, rope: Rope) -> Attention:
    return Attention(config.decoder, layer, rope, qkv_bias=False, o_bias=False)


def mlp(config: MistralConfig) -> GatedMLP:
    return GatedMLP(config.decoder)


def block(config: MistralConfig, layer: int, rope: Rope) -> Block:
    return Block(config.decoder, attention(config, layer, rope), mlp(config))


class Model(CausalLM):
    """`rename` is CausalLM's: checkpoint keys are attribute paths already."""

    def __init__(self, fields: Fields) -> None:
        read = MistralConfig.read(fields)
        rope = Rope(read.rope, read.decoder.head_dim)
        blocks = [block(read, layer, rope) for layer in range(read.decoder.num_hidden_layers)]
        super().__init__(read.decoder, blocks, read.windows)
