"""How much longer a tokenizer's own steps make a text, before the library takes them.

A normalizer is a list of replacements that a model's file brings. Three of them that write a thousand letters for
one make gigabytes of a short prompt, and the library has no limit: it ends the process where memory does. So a file
whose steps multiply without measure is refused, and where they multiply at all, a text goes through them one by one
first.

Knows nothing about vocabularies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from runner.errors import BadModelFiles, BadRequest

Step = Mapping[str, Any]

MOST = 4096  # times as long, at worst
USUAL = 8  # times as long: a text is not looked at
FREE = 64 * 1024  # characters that any text may become
KEY = '"normalizer"'


def require_measure(tokenizer_json: str) -> None:
    """Raises BadModelFiles. Looks at the text of the file, since the library normalizes added tokens when it reads
    it. What stands under this key may be something else, a token of the vocabulary for one.
    """
    decoder, at = json.JSONDecoder(), 0
    while (at := tokenizer_json.find(KEY, at)) >= 0:
        at += len(KEY)
        begin = tokenizer_json.find("{", at)
        if begin >= 0 and tokenizer_json[at:begin].strip() == ":":
            value, at = decoder.raw_decode(tokenizer_json, begin)
            times = math.prod(map(_times, steps(value)))
            if times > MOST:
                raise BadModelFiles(
                    f"tokenizer.json: the normalizer makes a text up to {times} times as long, limit {MOST}"
                )


class Growth:
    """The normalizer of one tokenizer."""

    def __init__(self, normalizer: Any) -> None:
        """normalizer: the library's, or None."""
        found = [] if normalizer is None else list(steps(json.loads(normalizer.__getstate__())))
        grows = math.prod(map(_times, found)) > USUAL
        parts = [normalizer] if len(found) == 1 else normalizer
        self._steps: list[tuple[tokenizers.normalizers.Normalizer, Step]] = (
            [(parts[number], step) for number, step in enumerate(found)] if grows else []
        )

    def require_measure(self, text: str) -> None:
        """Raises BadRequest if a text would become too long."""
        limit = max(FREE, USUAL * len(text))
        for part, step in self._steps:
            if _length(step, text) > limit or len(text := part.normalize_str(text)) > limit:
                raise BadRequest(f"the model's tokenizer makes more than {limit} characters of this text")


def steps(value: Any) -> Iterator[Step]:
    """Of a normalizer as tokenizer.json has it, those in sequences included."""
    if isinstance(value, dict):
        inner = value.get("normalizers")
        if isinstance(inner, list):
            for part in inner:
                yield from steps(part)
        else:
            yield value


def _times(step: Step) -> int:
    """How many times as long a text can become by a step; only what can be repeated without end counts."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)} if pattern:
            return max(1, math.ceil(len(content) / len(pattern)))
        case {"type": "Replace", "content": str(content)}:  # a match may be empty
            return 1 + len(content)
        case {"type": "Prepend", "prepend": str(content)}:  # to each part between added tokens
            return 1 + len(content)
        case {"type": "ByteLevel"}:
            return 4
    return 1


def _length(step: Step, text: str) -> int:
    """An upper bound of what a step makes of a text; exact for a replaced string."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            return len(text) + text.count(pattern) * (len(content) - len(pattern))
    return len(text) * _times(step)
