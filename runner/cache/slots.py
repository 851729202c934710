"""The slots: memory for N sequences, each with the tokens that it holds. With one slot this is the single-entry
prefix cache: what the last request left behind, moved to the next one.

    match    which free slot has most of a prompt already; asks the storages, changes nothing
    take     the slot is one request's; what it holds is as before
    begin    the storages go back to what the request shares with them, or fresh ones take their place
    give     the request is over; the slot holds what its memory holds
    drop     something went wrong; the slot is empty
    put      a free slot holds what another process left on the disk, as if a request had left it there

    FREE --take--> TAKEN --begin--> BEGUN --give or drop--> FREE        TAKEN --give or drop--> FREE

Positions of a request that has a slot:

    [0, matched)               kept from the request before
    [matched, len(prompt))     to prefill; never empty, since the last prompt token is always evaluated again
    [len(prompt), offset)      generated and forwarded

Invariants:

1. A slot that was begun holds no tokens; it gets them back when it is given. So whatever goes wrong in between, the
   worst outcome is a miss.
2. The storages' common offset is the truth about what they hold. Decoding runs one step ahead, so storages may hold
   one position more than there are tokens that were read; the next request goes back behind it.
3. After an exception the slot is dropped: after an MLX failure offsets say what was planned, not computed, and
   arrays may hold another request's memory.
4. Layers that are not level empty the slot. Layers that cannot go back to where they should go back together to
   the furthest position before it that all of them can restore; at 0 that is a miss.
5. Tokens are compared, never hashes.

Where a storage goes back to checkpoints only, a request sets some: where it begins, where its last turn begins, at
the ends of chunks and at its prompt's end. `points.py` says which of them stay. A repeated prompt feeds its last
token again, and in the next turn a template may write the end of this prompt anew (a `<think>` that was opened to
be filled, an empty thought), which is 2 to 4 tokens. So where a storage has no leeway before a checkpoint, the
prompt is fed so that the one at its end comes to stand `tail` before it.

Knows nothing about text, sampling or models beyond `make_memory`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from runner.cache.memory import Memory
from runner.cache.points import BOUND, Bound
from runner.machine.levels import TRACE

log = logging.getLogger(__name__)

TAIL = 4  # tokens


@dataclass(frozen=True, slots=True)
class Match:
    """A slot's number and how many leading tokens of a prompt it can keep."""

    slot: int
    matched: int


class Held(NamedTuple):
    """What a slot holds. busy: a request has it. nbytes: reserved room included."""

    busy: bool
    tokens: int
    nbytes: int


class _State(Enum):
    FREE = auto()
    TAKEN = auto()
    BEGUN = auto()


@dataclass(slots=True)
class _Slot:
    state: _State = _State.FREE
    tokens: list[int] = field(default_factory=list)
    memory: Memory | None = None
    used: int = 0  # when it was taken last, counted in requests


class Slots:
    """N sequences of one model."""

    def __init__(self, make_memory: Callable[[], Memory], count: int = 1, bound: Bound = BOUND) -> None:
        """bound: what the checkpoints of a slot may hold."""
        self._make_memory = make_memory
        self.bound = bound
        self.count = count
        self._slots = [_Slot() for _ in range(count)]
        self._requests = 0
        # How many of a prompt's last tokens are to be fed together, behind a checkpoint.
        fresh = make_memory()
        self.leeway = fresh.leeway
        self.goes_back_anywhere = fresh.leeway is None
        self.tail = TAIL if fresh.leeway is not None and fresh.leeway < TAIL else 1
        self.may_join = fresh.borrowed is None  # whether a forward may have several rows
        self.may_pack = fresh.holds_only(fresh.attention)  # and chunks of prompts beside them

    @property
    def is_free(self) -> bool:
        """Whether a request can have a slot now."""
        return any(slot.state is _State.FREE for slot in self._slots)

    def held(self) -> list[Held]:
        """What each slot holds."""
        return [_held(slot) for slot in self._slots]

    def tokens(self, number: int) -> list[int]:
        """The tokens whose keys and values a slot holds."""
        return list(self._slots[number].tokens)

    def memory(self, number: int) -> Memory:
        """What a slot that was begun remembers."""
        memory = self._slots[number].memory
        assert memory is not None
        return memory

    def match(self, prompt: Sequence[int]) -> Match:
        """The free slot that can keep most of a non-empty prompt; of equals the one that was used longest ago."""
        matches = {number: self._matched(slot, prompt) for number, slot in self._free()}
        best = max(matches, key=lambda number: (matches[number], -self._slots[number].used))
        _log_match(matches[best], self._shared(self._slots[best], prompt), len(prompt))
        return Match(best, matches[best])

    def matched(self, prompt: Sequence[int]) -> int:
        """How many leading tokens of a non-empty prompt `match` would find."""
        return max(self._matched(slot, prompt) for _, slot in self._free())

    def take(self, number: int) -> None:
        """The slot belongs to one request until `give` or `drop`."""
        slot = self._slots[number]
        self._requests += 1
        slot.state, slot.used = _State.TAKEN, self._requests

    def begin(self, number: int, matched: int, total: int) -> Memory:
        """Memory of the first `matched` tokens; `total` is how many positions may be needed in all."""
        slot = self._slots[number]
        slot.state, slot.tokens, memory = _State.BEGUN, [], slot.memory
        if not matched or memory is None or not memory.rewind(matched):
            assert matched == 0, "the storages cannot do what `restorable` said"
            memory = slot.memory = self._make_memory()
        memory.points.bound = self.bound
        memory.reserve(total)
        return memory

    def give(self, number: int, known: Sequence[int]) -> None:
        """The request is over; `known` are its prompt and the tokens that were read."""
        slot = self._slots[number]
        begun, slot.state = slot.state is _State.BEGUN, _State.FREE
        if not begun:
            return
        memory = self.memory(number)
        memory.settle()
        if not memory.is_level:
            offsets = [storage.offset for storage in memory.storages]
            log.warning("Slot emptied", extra={"slot": number, "offsets": offsets})
            self.drop(number)
            return
        slot.tokens = list(known[: memory.offset])
        log.log(TRACE, "kv cache", extra={"slot": number, "tokens": len(slot.tokens), "size": self.nbytes})

    def drop(self, number: int) -> None:
        """Forget everything; the slot is free."""
        slot = self._slots[number]
        slot.state, slot.tokens, slot.memory = _State.FREE, [], None

    def empty(self) -> list[Held]:
        """Forget what free slots hold; what that was."""
        emptied = [(number, _held(slot)) for number, slot in self._free() if slot.memory is not None]
        for number, _ in emptied:
            self.drop(number)
        return [held for _, held in emptied]

    def spare(self) -> bool:
        """Forget what one free slot holds, the one that was used longest ago; False if none holds anything."""
        parked = [(slot.used, number) for number, slot in self._free() if slot.memory is not None]
        if parked:
            self.drop(min(parked)[1])
        return bool(parked)

    def parked(self) -> list[tuple[list[int], Memory]]:
        """What free slots hold: tokens, and the memory of them. It must not be used when a request began."""
        held = [(slot.tokens, slot.memory) for _, slot in self._free()]
        return [(tokens, memory) for tokens, memory in held if tokens and memory is not None]

    def fresh_memory(self) -> Memory:
        """One that `put` takes, when it holds something."""
        return self._make_memory()

    def put(self, tokens: Sequence[int], memory: Memory) -> None:
        """The free slot that was used longest ago holds this instead."""
        _, slot = min(self._free(), key=lambda one: one[1].used)
        slot.tokens, slot.memory = list(tokens), memory

    @property
    def nbytes(self) -> int:
        """Bytes of all storages, reserved room included."""
        return sum(slot.memory.nbytes for slot in self._slots if slot.memory is not None)

    def _free(self) -> list[tuple[int, _Slot]]:
        return [(number, slot) for number, slot in enumerate(self._slots) if slot.state is _State.FREE]

    def _matched(self, slot: _Slot, prompt: Sequence[int]) -> int:
        return slot.memory.restorable(self._shared(slot, prompt)) if slot.memory is not None else 0

    def _shared(self, slot: _Slot, prompt: Sequence[int]) -> int:
        return min(common_prefix(slot.tokens, prompt), len(prompt) - 1)


def _held(slot: _Slot) -> Held:
    memory = slot.memory
    if memory is None:
        return Held(slot.state is not _State.FREE, 0, 0)
    tokens = memory.offset if slot.state is _State.BEGUN else len(slot.tokens)
    return Held(slot.state is not _State.FREE, tokens, memory.nbytes)


def _log_match(matched: int, shared: int, total: int) -> None:
    refused = {"shared": shared} if matched < shared else {}
    if matched:
        left = total - matched
        log.info("Cache hit", extra={"total": total, "cached": matched, "left": left, **refused})
    else:
        log.info("Cache miss", extra={"left": total, **refused})


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
