"""What requests may take of the memory: numbers in, decisions out.

    limit      all that MLX may hold at any moment
    used       what it holds now: weights, slots, what is under way
    passing    what a step takes and gives back: activations, scores, logits
    growth     by how much the slots' storages grow

A step is foretold before it runs: used + growth + passing <= limit. When memory is short, these give way in turn:
the size of a chunk, down to SMALLEST_CHUNK; entries of slots that no request has, the one that was used longest ago
first; then the request, which waits for another one to end. Who needs more than there is without any other is
refused.

Knows nothing about arrays, text or how slots remember.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from runner.cache.need import STEP, Need, foretold, in_steps
from runner.errors import PromptTooLarge

MOST_STEPS = 2**16  # of a capacity; a context of 16 million positions
SMALLEST_CHUNK = 64  # positions; for want of memory a chunk becomes no smaller
# How much more is set aside for `passing` than the probe says. Of chunks of 16 to 256 positions behind up to 2,048
# others the demo model and SmolLM2-135M took 0.73 to 1.15 times what was foretold, on a CPU. On a busy one MLX
# allocates further ahead of what it computes: 2 of 24 runs took more than 1.25 times as much, none of 36 more than
# this.
SLACK = 1.4


class Costs(NamedTuple):
    """Bytes. position: what a forward takes for each that it is fed. pair: for each of these and each that it sees.
    row: for the logits and the draw of a row. needs: of a memory's storages. chunk: what a chunk of a prompt takes
    beside all this, however long it is: packed weights that become floats, and what is prepared ahead.
    """

    position: float = 0.0
    pair: float = 0.0
    row: int = 0
    needs: tuple[Need, ...] = ()
    chunk: int = 0


class Limits(NamedTuple):
    """What a loaded model may take of this machine. total: bytes. chunk: positions of the largest one."""

    total: int
    costs: Costs
    chunk: int

    def kept(self, positions: int) -> int:
        """Bytes of a slot with room for so many positions."""
        return foretold(self.costs.needs, positions, self.chunk)

    def passing(self, fed: int, seen: int, rows: int) -> int:
        """Bytes of a step. fed: positions of prompts. seen: positions that each sees, at most. rows: that draw."""
        costs, positions = self.costs, fed + rows
        taken = costs.position * positions + costs.pair * positions * seen + costs.row * rows
        return int(SLACK * taken) + (costs.chunk if fed else 0)


class Entry(NamedTuple):
    """What the slot of a request holds before it begins: bytes, and positions of these that are kept."""

    nbytes: int
    matched: int


EMPTY = Entry(0, 0)


class Budget:
    """The limits, and what is left of them now."""

    def __init__(
        self, limits: Limits, used: Callable[[], int], held: Callable[[], int], spare: Callable[[], bool]
    ) -> None:
        """used: bytes that MLX holds in arrays. held: of these in slots. spare: make a slot forget that no request
        has; False if there is none.
        """
        self.limits = limits
        self._used = used
        self._held = held
        self._spare = spare
        self._others = 0  # bytes that are in no slot: weights and what is small

    def growth(self, room: int, entry: Entry) -> int:
        """By how much a slot grows that a request takes up: less than nothing if it forgets what it holds."""
        if entry.matched:
            return self.moved(room, entry.nbytes)
        return self.limits.kept(room) - entry.nbytes

    def moved(self, room: int, held: int) -> int:
        """What it takes to grow: while a storage moves, what it has is there twice."""
        kept = self.limits.kept(room)
        return kept - held + kept // max(1, len(self.limits.costs.needs)) if kept > held else 0

    def capacity(self, entry: Entry) -> int:
        """Positions for which a slot has room without growing."""
        if not entry.matched:
            return 0
        steps = bisect_right(
            range(MOST_STEPS), entry.nbytes, key=lambda steps: self.limits.kept(steps * STEP)
        )
        return max(0, steps - 1) * STEP

    def admit(self, prompt: int, answer: int, wanted: int, entry: Entry, promised: int, rows: int) -> int:
        """For how many positions a request gets room at first; 0 if it has to wait for others to end.

        answer: tokens that it may have at most. wanted: positions for which room would be good. promised: by how
        much the slots of others will grow yet. rows: how many others are live. Raises PromptTooLarge.
        """
        if not rows:
            self._others = self._used() - self._held()
        least = prompt + min(answer, STEP)
        chunk = min(SMALLEST_CHUNK, prompt - entry.matched)
        self._refuse(prompt, least)
        passing = self.limits.passing(chunk, prompt, rows + 1) + promised
        if not self.fits(self.growth(least, entry) + passing):
            return 0
        return in_steps(wanted if self.growth(wanted, entry) + passing <= self.left else least)

    def chunk(self, size: int, seen: int, rows: int, growth: int) -> int:
        """How many positions of prompts the next step may feed, `size` at most; 0: none for now."""
        while size > SMALLEST_CHUNK and growth + self.limits.passing(size, seen, rows) > self.left:
            size = max(size // 2, SMALLEST_CHUNK)
        return size if self.fits(growth + self.limits.passing(size, seen, rows)) else 0

    def grow(self, room: int, needed: int, total: int, rows: int, promised: int) -> int:
        """For how many positions a row gets room that needs more; as many as it has if it has to wait.

        total: positions that it may have at all.
        """
        passing = self.limits.passing(0, needed, rows) + promised
        needed = in_steps(needed)
        wanted = max(needed, in_steps(min(room + room // 2, total)))
        held = self.limits.kept(room)
        if self.moved(wanted, held) + passing <= self.left:
            return wanted
        return needed if self.fits(self.moved(needed, held) + passing) else room

    @property
    def left(self) -> int:
        """Bytes that are free now."""
        return self.limits.total - self._used()

    def fits(self, taken: int) -> bool:
        """Whether so much can be had, be it at the cost of entries that no request has."""
        while taken > self.left:
            if not self._spare():
                return False
        return True

    def _refuse(self, prompt: int, least: int) -> None:
        """A prompt that would not fit if it were alone, with the beginning of an answer."""
        chunk = min(SMALLEST_CHUNK, prompt)
        needed = self.limits.kept(least) + self.limits.passing(chunk, prompt, 1)
        there = self.limits.total - self._others
        if needed > there:
            raise PromptTooLarge(prompt, needed, there)
