"""Where one answer stands in its grammar: which tokens may come next, and those that must.

One belongs to one generation. A step asks for `allowed` when the token before was accepted; the forward of that
token is under way by then. llguidance raises nothing: what goes wrong puts a matcher into a state of error, and it
stays there.

Knows nothing about logits or draws.
"""

from __future__ import annotations

from llguidance import LLMatcher

from runner.errors import RunnerError


class Matcher:
    """A grammar and what was said so far."""

    def __init__(self, inner: LLMatcher) -> None:
        self._inner = inner

    def allowed(self) -> bytes:
        """A bit for each token id, set if it may come next, in words of 32, lowest first. Raises RunnerError if
        that cannot be worked out.
        """
        mask = self._inner.compute_bitmask()
        if self._inner.is_error():
            raise RunnerError(f"grammar: {_line(self._inner)}")
        return mask

    def accept(self, token: int) -> None:
        """This token came. Raises RunnerError if it may not."""
        if not self._inner.consume_token(token):
            raise RunnerError(f"grammar: accept sampled token {token}: {_line(self._inner)}")

    def forced(self) -> list[int]:
        """The tokens that must come now, one after the other: certain text, cut as the tokenizer cuts it."""
        return self._inner.compute_ff_tokens()

    @property
    def is_over(self) -> bool:
        """Whether the answer is whole and nothing may follow but its end."""
        return self._inner.is_stopped()


def _line(inner: LLMatcher) -> str:
    """The first line of what went wrong; the others show the parser's insides."""
    return inner.get_error().split("\n", 1)[0][:512]
