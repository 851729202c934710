"""Token ids in a model's files: the ids that begin or end a text, and the ids of the vocabulary.

Knows nothing about text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

from runner.errors import BadModelFiles

Json = Mapping[str, Any]


def id_sources(generation_config: Json, config: Json) -> dict[str, Json]:
    """The files that name begin and end, by what an error calls them; the first one decides."""
    sources = {"generation_config.json": generation_config, "config.json": config}
    inner = config.get("text_config")  # where models that also see or hear keep it
    return sources | ({"config.json: text_config": inner} if isinstance(inner, dict) else {})


def valid_ids(field: str, value: Any) -> list[int]:
    """None, an id or a list of ids, as model files have it."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise BadModelFiles(f"{field} is not a token id: {str(token_id)[:60]!r}")
    return ids


def largest_id(inner: tokenizers.Tokenizer) -> int:
    """Of the vocabulary without what was added; -1 if that is empty.

    Nearly every vocabulary of n entries has the ids below n. To look at those takes half as long as to take all
    entries out, and other threads run meanwhile: 262 thousand entries hold the GIL for a quarter of a second.
    """
    count = inner.get_vocab_size(with_added_tokens=False)
    entry = inner.model.id_to_token
    for token_id in range(count):
        if entry(token_id) is None:
            return max(inner.get_vocab(with_added_tokens=False).values())
    return count - 1
