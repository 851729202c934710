"""One memory on its way to the disk, an array at a time.

The MLX thread copies an array to bytes; a thread of its own writes them, since a disk may take its time. Between
two arrays the MLX thread is free, and a request that comes ends all of it at once.

Knows nothing about slots or models.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, wait

import mlx.core as mx

from runner.disk.entry import CHECKSUM_BYTES, Entry, array_bytes, entry_header
from runner.disk.folder import Draft


class Saving:
    """Belongs to the MLX thread. `wake` is called on another one when `step` can go on."""

    def __init__(
        self,
        draft: Draft,
        identity: str,
        entry: Entry,
        arrays: dict[str, mx.array],
        writer: Executor,
        wake: Callable[[], None],
    ) -> None:
        header = entry_header(identity, entry, arrays)
        checksums = CHECKSUM_BYTES * (len(arrays) + 2)
        self.size = len(header) + len(entry.tokens) + sum(one.nbytes for one in arrays.values()) + checksums
        self._draft = draft
        self._writer = writer
        self._wake = wake
        self._pieces = _pieces(entry.tokens, arrays)
        self._is_last = False
        self._under_way = self._begin(lambda: draft.begin(header, self.size))

    def step(self) -> bool:
        """Go on, if what was begun is done; whether the entry is in the folder. Raises OSError; then `abandon`."""
        if not self._under_way.done():
            return False
        self._under_way.result()
        if self._is_last:
            return True
        data = next(self._pieces, None)
        if data is None:
            self._is_last = True
            self._under_way = self._begin(self._draft.commit)
        else:
            self._under_way = self._begin(lambda: self._draft.write(data))
        return False

    def wait(self, timeout_s: float) -> bool:
        """Until `step` can go on; False if that took longer."""
        return bool(wait([self._under_way], timeout_s).done)

    def abandon(self) -> None:
        """Nobody wants it any more, and no array is held."""
        self._pieces.close()
        self._writer.submit(self._draft.discard)

    def _begin(self, call: Callable[[], None]) -> Future[None]:
        future = self._writer.submit(call)
        future.add_done_callback(lambda _: self._wake())
        return future


def _pieces(tokens: bytes, arrays: dict[str, mx.array]) -> Generator[bytes, None, None]:
    """What has a checksum of its own, in order; each array is let go of when its turn is over."""
    yield tokens
    for name in list(arrays):
        yield array_bytes(arrays.pop(name))
