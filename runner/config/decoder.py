"""The part of config.json that every plain decoder has: sizes, the activation, attention windows.

Knows nothing about arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.fields import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Fields,
    shown,
)
from runner.errors import BadModelFiles, UnsupportedModel


@dataclass(frozen=True)
class DecoderConfig:
    """The fields that every plain decoder has, under their names in config.json."""

    vocab_size: int  # V
    hidden_size: int  # E
    intermediate_size: int  # F
    num_hidden_layers: int
    num_attention_heads: int  # H
    num_key_value_heads: int  # K
    head_dim: int  # D
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool

    @classmethod
    def read(
        cls, fields: Fields, *, positions: int, kv_heads: int | None = None, head_dim: int | None = None
    ) -> DecoderConfig:
        """The keywords are the architecture's defaults: max_position_embeddings, num_key_value_heads (None:
        as many as there are query heads) and head_dim (None: hidden_size / heads).
        """
        check_activation(fields)
        hidden_size = fields.integer("hidden_size", high=MAX_WIDTH)
        heads = fields.integer("num_attention_heads", high=MAX_HEADS)
        if "num_key_value_heads" in fields:
            kv_heads = fields.optional_integer("num_key_value_heads", high=MAX_HEADS)
        kv_heads = heads if kv_heads is None else kv_heads
        if heads % kv_heads:
            raise BadModelFiles(
                f"config.json: num_attention_heads is {heads}, expected a multiple of"
                f" num_key_value_heads, {kv_heads}"
            )
        width = fields.optional_integer("head_dim", high=MAX_WIDTH) or head_dim
        if width is None and hidden_size % heads:
            raise BadModelFiles(
                f"config.json: hidden_size is {hidden_size}, expected a multiple of num_attention_heads, {heads}"
            )
        return cls(
            vocab_size=fields.integer("vocab_size", high=MAX_VOCABULARY),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size", high=MAX_WIDTH),
            num_hidden_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=width or hidden_size // heads,
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            max_position_embeddings=fields.integer("max_position_embeddings", positions, high=MAX_POSITIONS),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        )


FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(
    fields: Fields, decoder: DecoderConfig, window: int | None, default: Sequence[str]
) -> tuple[int | None, ...]:
    """For each layer its attention window, or None for no limit: `layer_types`, or `default` if that is absent.

    A window that no context can leave is none.
    """
    kinds = fields.optional_texts("layer_types")
    kinds = list(default) if kinds is None else kinds
    if len(kinds) != decoder.num_hidden_layers:
        raise fields.wrong("layer_types", f"a list of num_hidden_layers, {decoder.num_hidden_layers}, names")
    for kind in kinds:
        if kind not in (FULL, SLIDING):
            raise UnsupportedModel(
                f"config.json: layer_types has {shown(kind)}, supported are {FULL} and {SLIDING}"
            )
    if SLIDING in kinds and window is None:
        raise BadModelFiles(
            f"config.json: layer_types has {SLIDING}, but sliding_window (or use_sliding_window) turns it off"
        )
    if window is not None and window >= decoder.max_position_embeddings:
        window = None
    return tuple(window if kind == SLIDING else None for kind in kinds)


def read_sliding_window(fields: Fields) -> int | None:
    """`sliding_window`, where absent means transformers' default and null means no window."""
    if "sliding_window" not in fields:
        return 4096
    return fields.optional_integer("sliding_window", high=MAX_POSITIONS)


def check_activation(fields: Fields) -> None:
    """SwiGLU is the only gated MLP here. "swish" is the older name of the same function."""
    name = fields.text("hidden_act", "silu")
    if name not in ("silu", "swish"):
        raise UnsupportedModel(f"config.json: hidden_act {shown(name)} is not supported, only silu is")
