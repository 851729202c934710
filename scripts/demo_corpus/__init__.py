"""The training text of the demo model: endless, made from a seed, and written for this project.

    documents("train", seed)      stories, pages and chats, each as it is tokenized, with its special tokens
    documents("held-out", seed)   the same kinds; no document is in both splits

Which split a document belongs to is decided by a hash of its own text, so the splits are disjoint whatever the
seeds. Knows nothing about tokens or training.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Literal

from demo_corpus import chat, counting, facts, reading, records, stories, sums

Split = Literal["train", "held-out"]
HELD_OUT_SHARE = 32
"""One document in so many is held out."""

PAGES = {
    stories.page: 13,
    reading.page: 4,
    sums.drill: 5,
    facts.page: 2,
    chat.page: 4,
    counting.page: 1.5,
    records.page: 1.5,
}
CHATS = 64


def split_of(document: str) -> Split:
    """The split that a document belongs to."""
    return "held-out" if zlib.crc32(document.encode()) % HELD_OUT_SHARE == 0 else "train"


def document(rng: random.Random) -> str:
    """One document of either split."""
    if rng.random() * (sum(PAGES.values()) + CHATS) < CHATS:
        return chat.render(*chat.chat(rng))
    page = rng.choices(list(PAGES), list(PAGES.values()))[0]
    return f"{chat.BEGIN}{page(rng)}{chat.END}"


def documents(split: Split, seed: int) -> Iterator[str]:
    """Endless documents of a split."""
    rng = random.Random(f"{split} {seed}")
    while True:
        text = document(rng)
        if split_of(text) == split:
            yield text
