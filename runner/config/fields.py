"""Reading config.json: every field is asked for by name, with its type, its limits and its default.

A field that is absent or null takes its default; a field of the wrong type or out of its limits is one line that
names the field, the value and what was expected. The limits are far above any real model and far below what would
make us build or allocate without end. Defaults are those of the architecture's configuration class in Hugging
Face's transformers, because files leave out what equals them.

Knows nothing about arrays, or about what a field means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.errors import BadModelFiles

Config = dict[str, Any]
"""A parsed config.json."""

MAX_LAYERS = 1_000
MAX_HEADS = 4_096
MAX_EXPERTS = 4_096
MAX_WIDTH = 1 << 20
MAX_HEAD_WIDTH = 1 << 11  # published models have 512; a CPU's rotation has a matrix of so many squared
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = (1 << 31) - 1  # positions are int32


class Asked:
    """What was asked of one config.json, in one record for the whole file.

    A name that was asked for counts as asked wherever it stands: multimodal files repeat fields of `text_config`
    outside of it, where their readers do not look.
    """

    def __init__(self, where: str, values: Config) -> None:
        self._names: set[str] = set()
        self._objects = [(where, values)]

    def within(self, where: str, values: Config) -> None:
        """Another object of the file whose fields are to be asked for."""
        self._objects.append((where, values))

    def add(self, *names: str) -> None:
        self._names.update(names)

    def unread(self) -> Iterator[tuple[str, str, object]]:
        """Where, name and value, as the file has it, of each field that was never asked for."""
        for where, values in self._objects:
            for name, value in values.items():
                if name not in self._names:
                    yield where, name, value


class Fields:
    """Typed access to the fields of one JSON object; every name that is asked for is noted in `asked`."""

    def __init__(self, values: Config, where: str = "config.json", asked: Asked | None = None) -> None:
        """asked: the record of the file that this object is part of; None begins one."""
        self.values = values
        self.asked = Asked(where, values) if asked is None else asked
        self._where = where

    def section(self, name: str) -> Fields | None:
        """An object inside that has fields of the model, too, such as `text_config`; None as in `mapping`. Both
        share one `asked`.
        """
        values = self.mapping(name)
        if values is None:
            return None
        where = f"{self._where}: {name}"
        self.asked.within(where, values)
        return Fields(values, where, self.asked)

    def with_values(self, values: Config) -> Fields:
        """The same object as if the file said this: with defaults filled in, say. Both share one `asked`, so a
        field of the file is no longer unread when it was asked of the changed values.
        """
        return Fields(values, self._where, self.asked)

    def ignore(self, *names: str) -> None:
        """Fields that change nothing in this architecture, whatever they say."""
        self.asked.add(*names)

    def __contains__(self, name: str) -> bool:
        """Whether the field is there at all; null counts, since for a few fields it is a value of its own."""
        self.asked.add(name)
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
        self.asked.add(name)
        return self.values.get(name)

    def _or_default(self, name: str, default: object) -> Any:
        value = self._value(name)
        return default if value is None else value


def _is_number(value: object) -> bool:
    """JSON's true is not 1 here. NaN and Infinity, which Python's JSON reader lets through, fail every limit."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value from a file, on one line and no longer than a person wants to read."""
    try:
        text = json.dumps(value, default=repr)
    except RecursionError:  # it was read, but to write it takes a few calls more
        text = f"{type(value).__name__} of very many levels"
    return text if len(text) <= 80 else f"{text[:77]}..."
