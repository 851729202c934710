"""Long prompts through the layers of a model, with what few operations make in memory at a time.

MLX prepares operations for a GPU of NVIDIA's far ahead of it, and makes room for what each of them leaves. A prompt
of 8,192 positions through a model of 8 billion parameters takes 9 GB so, beside its weights and its keys and
values. So whoever is about to make something large says so, and may wait here until the GPU is near.

How near is a matter of what memory there is. On an H200 prompts were as fast with 384 MB as with 512; with less the
GPU waits now and then for whoever prepares.

Like MLX's own queue this is one for the process: all that is made is arrays of the thread that computes.

Knows nothing about what layers do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mlx.core as mx

from runner.kernels import choice
from runner.kernels.product import MOST

# Bytes that are made before somebody waits, who then waits for as many before them: a share of what is free.
LEAST_AHEAD, MOST_AHEAD, SHARE = 1 << 25, 3 << 27, 16


class Pace:
    """Of one forward of a long prompt."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._bytes = 0
        self._before: mx.array | None = None

    def __call__(self, x: mx.array, nbytes: int) -> None:
        """x: what so many bytes are about to be made of. May wait for an earlier one."""
        if self._bytes and self._bytes + nbytes > self._ahead:
            mx.async_eval(x)  # type: ignore[no-untyped-call]  # the stub has no types
            if self._before is not None:
                mx.eval(self._before)
            self._before, self._bytes = x, 0
        self._bytes += nbytes


_ahead = LEAST_AHEAD
_pace: Pace | None = None


def allow(free: int) -> int:
    """From now on spend a share of so many bytes on what is prepared, and never less than a little; how many that
    may be at once.
    """
    global _ahead
    _ahead = min(max(free // SHARE, LEAST_AHEAD), MOST_AHEAD)
    return 2 * _ahead if choice.prepares_ahead() else 0


@contextlib.contextmanager
def paced(positions: int) -> Iterator[None]:
    """Around one forward of so many. Few never wait, as in a step that decodes."""
    global _pace
    _pace = Pace(_ahead) if positions > MOST and choice.prepares_ahead() else None
    try:
        yield
    finally:
        _pace = None


def about_to_make(x: mx.array, nbytes: int) -> None:
    """So many bytes, of x: a long prompt may wait here. Elsewhere nobody waits."""
    if _pace is not None:
        _pace(x, nbytes)
