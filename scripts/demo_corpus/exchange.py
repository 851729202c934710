"""One question and its answer, the unit from which every chat is made. Knows nothing about any skill."""

from __future__ import annotations

import random
from typing import NamedTuple


class Exchange(NamedTuple):
    """What a person writes, what the model answers, and the piece that a right answer must contain."""

    question: str
    answer: str
    key: str


def pick(rng: random.Random, *options: str) -> str:
    """One of the options."""
    return options[int(rng.random() * len(options))]
