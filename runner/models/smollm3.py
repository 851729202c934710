"""SmolLM3, and what was published in its shape (SmolLM3ForCausalLM).

A Llama of which every fourth layer has no positions: neither queries nor keys are rotated there. Those layers may
see only a window.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_windows
from runner.config.fields import MAX_LAYERS, MAX_POSITIONS, Config, Fields
from runner.config.rope import RopeConfig
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.mlp import GatedMLP
from runner.layers.rope import Rope

DEFAULTS: Config = {"rope_theta": 2_000_000.0, "tie_word_embeddings": True}
"""Where they are not those of the other architectures."""


@dataclass(frozen=True)
class SmolLM3Config:
    decoder: DecoderConfig
    rope: RopeConfig
    rotated: tuple[bool, ...]  # each layer: whether it has positions
    windows: tuple[int | None, ...]
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def read(cls, fields: Fields) -> SmolLM3Config:
        fields = fields.with_values(_with_defaults(fields.values))
        fields.ignore("max_window_layers")  # a relic of Qwen2's in published files
        decoder = DecoderConfig.read(fields, positions=32_768, kv_heads=4)
        rotated = read_rotated(fields, decoder.num_hidden_layers)
        return cls(
            decoder=decoder,
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
            rotated=rotated,
            windows=read_unrotated_windows(fields, decoder, rotated),
            attention_bias=fields.flag("attention_bias", False),
            mlp_bias=fields.flag("mlp_bias", False),
        )


def _with_defaults(config: Config) -> Config:
    return config | {name: value for name, value in DEFAULTS.items() if config.get(name) is None}


def read_rotated(fields: Fields, count: int) -> tuple[bool, ...]:
    """`no_rope_layers` has a 1 for each layer with positions, in spite of its name, and may be longer than the
    model. Without it every `no_rope_layer_interval`-th layer has none.
    """
    given = fields.integers("no_rope_layers", high=1)
    if fields.values.get("no_rope_layers") is None:
        interval = fields.integer("no_rope_layer_interval", 4, high=MAX_LAYERS)
        return tuple((layer + 1) % interval != 0 for layer in range(count))
    fields.ignore("no_rope_layer_interval")
    if len(given) < count:
        raise fields.wrong("no_rope_layers", f"a list of at least num_hidden_layers, {count}, integers")
    return tuple(flag == 1 for flag in given[:count])


def read_unrotated_windows(
    fields: Fields, decoder: DecoderConfig, rotated: Sequence[bool]
) -> tuple[int | None, ...]:
    """With `use_sliding_window`, the layers without positions see a window, unless `layer_types` names others."""
    used = fields.flag("use_sliding_window", False)
    window = fields.optional_integer("sliding_window", high=MAX_POSITIONS) if used else None
    default = [FULL if window is None or turned else SLIDING for turned in rotated]
    return read_windows(fields, decoder, window, default)


def attention(config: SmolLM3Config, layer: int, rope: Rope) -> Attention:
    bias = config.attention_bias
    return Attention(config.decoder, layer, rope, qkv_bias=bias, o_bias=bias)


def mlp(config: SmolLM3Config) -> GatedMLP:
    return GatedMLP(config.decoder, bias=config.mlp_bias)


def block(config: SmolLM3Config, layer: int, rope: Rope) -> Block:
    return Block(config.decoder, attention(config, layer, rope), mlp(config))


class Model(CausalLM):
    """`rename` is CausalLM's: checkpoint keys are attribute paths already."""

    def __init__(self, fields: Fields) -> None:
        read = SmolLM3Config.read(fields)
        head_dim = read.decoder.head_dim
        rope, none = Rope(read.rope, head_dim), Rope(replace(read.rope, dims=0), head_dim)
        blocks = [block(read, layer, rope if on else none) for layer, on in enumerate(read.rotated)]
        super().__init__(read.decoder, blocks, read.windows)
