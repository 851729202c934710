"""A client whose chat grows, is asked again, is edited, and begins anew when it nears the context.

All chats are the same but for the number that each begins with, so each takes as much memory as the one before.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark import inside, models
from benchmark.conversation import marks

from reliability.kinds import completion
from reliability.process import Process
from reliability.replies import Wrong
from reliability.watching import Sample

NEXT, AGAIN, EDITED = "next turn", "regenerated", "edited"
DRAWN = (NEXT,) * 6 + (AGAIN,) * 2 + (EDITED,) * 2
QUESTION, ANSWER = 24, 16  # tokens
ROOM = 120  # tokens that a turn may take, its marks included
SKIPPED = 5  # the first fifth of chats warms up; the next one is compared with the last


class Chats:
    """One after the other, in one process."""

    def __init__(self, process: Process, folder: Path, context: int, seed: int) -> None:
        self._process = process
        self._tokenizer = inside.tokenizer_of(str(folder))
        self._turn, self._ending, self._assistant = marks(self._tokenizer)
        self._bias = {str(token): value for token, value in models.endless(self._tokenizer)}
        self._context = context
        self._seed = seed
        self.number = 0
        self.asked: Counter[str] = Counter()
        self._firsts: list[int] = []  # the first request of each chat
        self._before = self._question = self._answer = ""
        self._begin()

    def ask(self) -> None:
        """The next request. Raises Wrong."""
        if len(self._tokenizer.encode(self._before + self._question + self._answer)) + ROOM > self._context:
            self._begin()
        kind = self._draw.choice(DRAWN) if self._answer else NEXT
        if kind == NEXT:
            self._before += self._question + self._answer
        if kind != AGAIN:
            self._question = self._said()
        prompt = self._before + self._question
        options = {"num_predict": ANSWER, "logit_bias": self._bias}
        end = completion(self._process, prompt, options=options)
        if "Error" in end:
            raise Wrong(f"a {kind} was not answered: {end['Error']}")
        self._answer = f"{end['text']}{self._ending}"
        self.asked[kind] += 1

    def peaks(self, samples: Sequence[Sample]) -> dict[str, list[int]]:
        """The most that was seen during each chat that came to its end."""
        spans = list(zip(self._firsts, self._firsts[1:], strict=False))
        return {
            what: [max(getattr(one, what) for one in samples[first:end]) for first, end in spans]
            for what in ("held_bytes", "resident_bytes")
        }

    def _begin(self) -> None:
        self.number += 1
        self._firsts.append(self.asked.total())
        self._draw = random.Random(self._seed)
        self._before, self._question, self._answer = f"{self.number:05d} ", "", ""

    def _said(self) -> str:
        words = models.make_prompt(self._tokenizer, self._draw.randrange(1 << 30), QUESTION).text
        return f"{self._turn.format('user')}{words}{self._ending}{self._turn.format(self._assistant)}"


def flatness(peaks: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """What the last fifth of the chats took at most, to what the second fifth did: medians."""
    return {what: round(_flat(found), 4) for what, found in peaks.items() if len(found) >= 2 * SKIPPED}


def _flat(found: Sequence[int]) -> float:
    fifth = len(found) // SKIPPED
    return statistics.median(found[-fifth:]) / statistics.median(found[fifth : 2 * fifth])
