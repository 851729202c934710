"""A chat of a given length as a host's template writes it, and what its user may do next.

    first         many tokens of earlier turns, and a question
    next turn     the answer, and another question behind it
    regenerated   the same once more
    edited        the same, with other words in the last question

Knows nothing about servers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmark import models
from benchmark.inside import Tokenizer

MARKS = (
    ("<|im_start|>{}\n", "<|im_end|>\n", "assistant"),
    ("<start_of_turn>{}\n", "<end_of_turn>\n", "model"),
)
NO_MARKS = ("{}: ", "\n\n", "assistant")  # for a model that has none of them
EXCHANGES = 8  # earlier ones, half of each the user's


@dataclass(frozen=True)
class Conversation:
    """What comes before the first answer, and the question behind it, in two wordings."""

    first: str
    question: str
    other: str
    opening: str  # of an answer
    ending: str  # of a turn

    def next_turn(self, answer: str) -> str:
        return self._behind(answer, self.question)

    def edited(self, answer: str) -> str:
        return self._behind(answer, self.other)

    def _behind(self, answer: str, question: str) -> str:
        return f"{self.first}{answer}{self.ending}{question}{self.opening}"


def conversation(tokenizer: Tokenizer, number: int, length: int, asked: int) -> Conversation:
    """About `length` tokens before the first answer; no two numbers begin alike. asked: tokens of a question."""
    turn, ending, assistant = marks(tokenizer)
    draw = random.Random(number)

    def said(by: str, count: int) -> str:
        words = models.make_prompt(tokenizer, draw.randrange(1 << 30), count).text
        return f"{turn.format(by)}{words}{ending}"

    each = max(2, (length - asked) // (2 * EXCHANGES))
    history = [said(by, each) for _ in range(EXCHANGES) for by in ("user", assistant)]
    opening = turn.format(assistant)
    first = "".join([*history, said("user", asked), opening])
    return Conversation(first, said("user", asked), said("user", asked), opening, ending)


def marks(tokenizer: Tokenizer) -> tuple[str, str, str]:
    """What begins a turn, what ends it, and whose the answers are."""
    for turn, ending, assistant in MARKS:
        if len(tokenizer.encode(turn.partition("{")[0], begin=False)) == 1:
            return turn, ending, assistant
    return NO_MARKS
