"""Stop strings, found in the text however tokens cut it.

    text so far   [released | held | ...)

Text that could be the beginning of a stop string is held until that is decided, and never longer. The stop
string that starts first wins, wherever the text was cut: after "bc" of "abcd" has been seen, "bc" has to wait
for "abcd" to fail. Text before the winner is released, nothing from its start on.

For each stop string a Knuth-Morris-Pratt automaton keeps how much of it the text ends with, so a character
costs a constant per stop string (in the mean) whatever is held.

Knows nothing about tokens: standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopMatcher:
    """One answer's text on its way out. Empty stop strings are ignored."""

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self.matched: str | None = None
        self._watched = [_Watch(stop) for stop in dict.fromkeys(stops) if stop]
        self._held = ""
        self._first: tuple[int, str] | None = (
            None  # the best match so far: its start in _held, and the string
        )

    def feed(self, text: str) -> str:
        """The text that is now safe to send; "" means not yet. Once `matched` is set, always ""."""
        if self.matched is not None:
            return ""
        if not self._watched:
            return text
        before = len(self._held)
        self._held += text
        for watch in self._watched:
            if (end := watch.feed(text)) is not None:
                self._note(before + end - len(watch.stop), watch.stop)
        return self._release(self._undecided())

    def flush(self) -> str:
        """The end of the text: what was held, up to a match. `matched` is final after this."""
        return self._release(len(self._held))

    def _note(self, start: int, stop: str) -> None:
        if self._first is None or start < self._first[0]:
            self._first = start, stop

    def _undecided(self) -> int:
        """Where in the held text the longest unfinished stop string starts."""
        return len(self._held) - max(watch.length for watch in self._watched)

    def _release(self, upto: int) -> str:
        """The held text before `upto` and before a match; one that nothing undecided precedes is final."""
        if self._first is not None and self._first[0] <= upto:
            upto, self.matched = self._first
            text, self._held = self._held[:upto], ""
            return text
        text, self._held = self._held[:upto], self._held[upto:]
        if self._first is not None:
            self._first = self._first[0] - upto, self._first[1]
        return text


class _Watch:
    """One stop string: `length` characters of it are what the text fed so far ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._shorter = _shorter_borders(stop)

    def feed(self, text: str) -> int | None:
        """How far into this text the first full occurrence ends, if one does; `length` is then 0."""
        stop, shorter, length = self.stop, self._shorter, self.length
        if not length and stop[0] not in text:
            return None  # nearly every call ends here
        for position, char in enumerate(text):
            while length and char != stop[length]:
                length = shorter[length]
            if char == stop[length]:
                length += 1
                if length == len(stop):
                    self.length = 0
                    return position + 1
        self.length = length
        return None


def _shorter_borders(stop: str) -> list[int]:
    """[n]: the longest proper prefix of stop[:n] that it also ends with, for 0 <= n < len(stop)."""
    borders = [0, 0]
    length = 0
    for char in stop[1:-1]:
        while length and char != stop[length]:
            length = borders[length]
        length += char == stop[length]
        borders.append(length)
    return borders
