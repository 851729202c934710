"""Reading config.json: every field is asked for by name, with its type, its limits and its default.

A field that is absent or null takes its default; a field of the wrong type or out of its limits is one line that
names the field, the value and what was expected. The limits are far above any real model and far below what would
make us build or allocate without end. Defaults are those of the architecture's configuration class in Hugging
Face's transformers, because files leave out what equals them.

Knows nothing about arrays, or about what a field means.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import BadModelFiles, UnsupportedModel

Config = dict[str, Any]
"""A parsed config.json."""

MAX_LAYERS = 1_000
MAX_HEADS = 4_096
MAX_EXPERTS = 4_096
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = (1 << 31) - 1  # positions are int32


class Fields:
    """Typed access to the fields of one JSON object. It remembers every name that was asked for."""

    def __init__(self, values: Config, where: str = "config.json") -> None:
        self.values = values
        self._where = where
        self._asked: set[str] = set()
        self._sections = [self]

    def section(self, name: str) -> Fields | None:
        """An object inside that has fields of the model, too, such as `text_config`; None as in `mapping`."""
        values = self.mapping(name)
        if values is None:
            return None
        section = self.over(values)
        section._where = f"{self._where}: {name}"
        self._sections.append(section)
        return section

    def over(self, values: Config) -> Fields:
        """The same with other values: defaults filled in, say. What is asked of either counts for both."""
        changed = copy.copy(self)
        changed.values = values
        return changed

    def ignore(self, *names: str) -> None:
        """Fields that change nothing in this architecture, whatever they say."""
        self._asked.update(names)

    def unread(self) -> Iterator[tuple[str, str, object]]:
        """Where, name and value of each field that was never asked for."""
        for section in self._sections:
            for name, value in section.values.items():
                if name not in self._asked:
                    yield section._where, name, value

    def __contains__(self, name: str) -> bool:
        """Whether the field is there at all; null counts, since for a few fields it is a value of its own."""
        self._asked.add(name)
        return name in self.values

    def integer(self, name: str, default: int | None = None, *, high: int, low: int = 1) -> int:
        """An integer in [low, high]; without a default the field is required."""
        value = self._or_default(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def optional_integer(self, name: str, *, high: int, low: int = 1) -> int | None:
        """An integer in [low, high], or None if the field is absent or null."""
        return None if self._value(name) is None else self.integer(name, high=high, low=low)

    def number(self, name: str, default: float | None = None, *, above: float = 0.0) -> float:
        """A finite number greater than `above`; without a default the field is required."""
        number = self._or_default(name, default)
        if not _is_number(number) or not above < number < 1e30:
            raise self.wrong(name, f"a number above {above:g}")
        return float(number)

    def optional_number(self, name: str) -> float | None:
        """A finite number of at least 0, or None if the field is absent or null."""
        number = self._value(name)
        if number is None:
            return None
        if not _is_number(number) or not 0 <= number < 1e30:
            raise self.wrong(name, "a number of at least 0")
        return float(number)

    def flag(self, name: str, default: bool) -> bool:
        value = self._or_default(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        value = self._or_default(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def optional_texts(self, name: str) -> list[str] | None:
        """A list of strings, or None if the field is absent or null."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of strings")
        return value

    def integers(self, name: str, *, high: int) -> list[int]:
        """A list of integers in [0, high], empty if the field is absent or null."""
        value = self._or_default(name, [])
        if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= high for item in value):
            raise self.wrong(name, f"a list of integers from 0 to {high}")
        return value

    def mapping(self, name: str) -> Config | None:
        """A JSON object, or None if the field is absent, null or empty."""
        value = self._value(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value or None

    def wrong(self, name: str, expected: str) -> BadModelFiles:
        value = self._value(name)
        found = "missing" if value is None else shown(value)
        return BadModelFiles(f"{self._where}: {name} is {found}, expected {expected}")

    def _value(self, name: str) -> Any:
        self._asked.add(name)
        return self.values.get(name)

    def _or_default(self, name: str, default: object) -> Any:
        value = self._value(name)
        return default if value is None else value


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


def _is_number(value: object) -> bool:
    """JSON's true is not 1 here. NaN and Infinity, which Python's JSON reader lets through, fail every limit."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value from a file, on one line and no longer than a person wants to read."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."
