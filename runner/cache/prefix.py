"""The single-entry prefix cache: what the last request left behind, moved to the next one.

An entry is (tokens, caches): the caches hold the keys and values of exactly these tokens. A request
borrows it:

    with prefix.session(prompt, total) as session:
        ... forward session.remaining through session.caches, append each token read to the session ...

Positions of one session:

    [0, matched)               kept from the entry
    [matched, len(prompt))     to prefill; never empty, since the last prompt token is always evaluated again
    [len(prompt), offset)      generated and forwarded

Invariants:

1. While a session is open there is no entry; one comes back when it closes. So whatever goes wrong in
   between, the worst outcome is a miss.
2. The caches' common offset is the truth about what they hold. Decoding runs one step ahead, so at the end
   offset may be one more than the tokens that were read; then the caches are rewound to the tokens known.
3. An exception in the body drops everything: after an MLX failure offsets say what was planned, not computed,
   and arrays may hold another request's memory.
4. Layers that are not level drop the entry. Layers that cannot go back to where they should go back together to
   the furthest position before it that all of them can restore; at 0 that is a miss.
5. Tokens are compared, never hashes.

Where a storage goes back to checkpoints only, the session sets one where it begins, and its prompt is to be fed so
that another one comes to stand `tail` before its end: in the next turn a template may write the end of this prompt
anew (a `<think>` that was opened to be filled, an empty thought), which is 2 to 4 tokens.

Two sessions can't overlap: only the worker thread opens them.

Knows nothing about text, sampling or models beyond `make_caches`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from runner.cache.base import Storage
from runner.machine.levels import TRACE

log = logging.getLogger(__name__)

TAIL = 4  # tokens


class Session:
    """One request's hold on the caches."""

    def __init__(self, prompt: Sequence[int], caches: Sequence[Storage], matched: int) -> None:
        self.prompt = list(prompt)
        self.caches = caches
        self.matched = matched
        self.tail = TAIL if any(cache.checkpointed for cache in caches) else 1
        self.generated: list[int] = []

    @property
    def remaining(self) -> list[int]:
        """The prompt tokens to prefill: [matched, len(prompt))."""
        return self.prompt[self.matched :]

    def checkpoint(self) -> None:
        """Remember this position as one to come back to: a hint to the caches."""
        for cache in self.caches:
            cache.checkpoint()

    def append(self, token: int) -> None:
        """Note a token that was sampled and read, whether or not it was forwarded."""
        self.generated.append(token)


class PrefixCache:
    """At most one entry, in memory, of one model."""

    def __init__(self, make_caches: Callable[[], Sequence[Storage]]) -> None:
        self._make_caches = make_caches
        self._tokens: list[int] = []
        self._caches: Sequence[Storage] | None = None

    @property
    def tokens(self) -> list[int]:
        """The tokens whose keys and values are held."""
        return list(self._tokens)

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self._caches or [])

    def drop(self) -> None:
        self._tokens, self._caches = [], None

    @contextmanager
    def session(self, prompt: Sequence[int], total: int) -> Iterator[Session]:
        """Borrow the caches for a non-empty prompt; `total` is how many positions may be needed in all."""
        matched, caches = self._take(prompt)
        for cache in caches:
            cache.reserve(total)
        session = Session(prompt, caches, matched)
        session.checkpoint()
        yield session
        # Only reached without an exception: invariant 3.
        self._put_back(session)

    def _take(self, prompt: Sequence[int]) -> tuple[int, Sequence[Storage]]:
        tokens, caches = self._tokens, self._caches
        self.drop()
        shared = min(common_prefix(tokens, prompt), len(prompt) - 1)
        matched = restorable(caches, shared) if caches else 0
        refused = {"shared": shared} if matched < shared else {}
        if caches and matched and all(cache.rewind(matched) for cache in caches):
            left = len(prompt) - matched
            log.info("Cache hit", extra={"total": len(prompt), "cached": matched, "left": left, **refused})
            return matched, caches
        log.info("Cache miss", extra={"left": len(prompt), **refused})
        return 0, self._make_caches()

    def _put_back(self, session: Session) -> None:
        known = session.prompt + session.generated
        offset = session.caches[0].offset
        level = all(cache.offset == offset for cache in session.caches)
        if level and offset > len(known):
            offset = restorable(session.caches, len(known))
            level = all(cache.rewind(offset) for cache in session.caches)
        if level and offset:
            self._tokens, self._caches = known[:offset], session.caches
            log.log(TRACE, "kv cache", extra={"tokens": offset, "size": self.nbytes})
        elif offset:
            log.warning("Cache entry dropped", extra={"offsets": [cache.offset for cache in session.caches]})


def restorable(caches: Sequence[Storage], to: int) -> int:
    """The largest position in [0, to] that all caches can be rewound to."""
    while True:
        lowest = min(cache.restorable(to) for cache in caches)
        if lowest == to:
            return to
        to = lowest  # where one cache can go another may not


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
