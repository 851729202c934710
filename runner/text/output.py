"""Token ids in, text out that is safe to send: the detokenizer and the stop matcher in a row.

Text is late for two reasons: a character's bytes may be spread over tokens, and a stop string may be half
there. A token's logprob travels with the first text of that token that is sent; tokens that lie wholly
behind a stop string are dropped with their text.

Knows nothing about sampling, caches or events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from runner.text.detokenizer import Detokenizer
from runner.text.stops import StopMatcher
from runner.text.tokenizer import Tokenizer
from runner.types import TokenLogprob


class Output:
    """feed() every generated token but EOS, then flush() once; "" means nothing printable yet."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stop)
        self._decoded = 0  # characters that left the detokenizer
        self._sent = 0  # characters that left the matcher
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()  # where each token's text starts

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing comes out any more."""
        return self._matcher.matched is not None

    def feed(
        self, token: int, logprob: float | None = None, top: Sequence[tuple[int, float]] = ()
    ) -> tuple[str, tuple[TokenLogprob, ...]]:
        """The text that became safe, and the logprobs of the tokens it comes from.

        logprob: of the token, None if none was asked for; top: ids and logprobs of the best alternatives.
        """
        if logprob is not None:
            piece = self._tokenizer.piece
            entry = TokenLogprob(piece(token), logprob, tuple((piece(id_), value) for id_, value in top))
            self._waiting.append((self._decoded, entry))
        return self._through(self._detokenizer.feed(token))

    def flush(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What was held back, at the end of generation: nothing after a stop string."""
        text, due = self._through(self._detokenizer.flush())
        if self.stopped:
            return text, due
        text += self._matcher.flush()
        rest = tuple(entry for _, entry in self._waiting)
        self._waiting.clear()
        return text, due + rest

    def _through(self, text: str) -> tuple[str, tuple[TokenLogprob, ...]]:
        self._decoded += len(text)
        safe = self._matcher.feed(text)
        self._sent += len(safe)
        return safe, self._due() if safe else ()

    def _due(self) -> tuple[TokenLogprob, ...]:
        due = []
        while self._waiting and self._waiting[0][0] < self._sent:
            due.append(self._waiting.popleft()[1])
        return tuple(due)
