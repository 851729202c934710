"""The entries on the disk of the loaded model: which there are, when one is restored, and what is saved when.

    restore   before a request takes a slot: if an entry has notably more of its prompt than all free slots
    step      while nobody wants anything: save what free slots hold, if the entries have notably less of it
    abandon   somebody wants something: what is being saved is given up, and is begun anew later
    finish    at the end: the same, with what it takes, for a short time

What a new entry has, older ones need not have too: an entry of which the new one has nearly all goes, as each turn
of a conversation repeats the turns before. When room is short, the entries that were used longest ago go.

Nothing that is wrong here is more than a miss. A file that is damaged, or foreign under a name of ours, costs a
warning and goes. A disk that takes no more costs a warning until it takes something again.

Belongs to the MLX thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from runner.cache.memory import Memory
from runner.cache.slots import Slots
from runner.disk.entry import Arrays, Entry, Forms, packed_tokens, read_entry
from runner.disk.folder import Draft, Folder
from runner.disk.saving import Saving
from runner.errors import BadModelFiles, explain

log = logging.getLogger(__name__)

NOTABLE = 64  # tokens
MODEL_DIGITS = 16
NEARLY_ALL = 7 / 8
WRONG = (OSError, ValueError, KeyError, BadModelFiles)


class DiskCache:
    """Of one model and its slots."""

    def __init__(
        self,
        folder: Folder,
        slots: Slots,
        identity: str,
        expected: Forms,
        wake: Callable[[], None] = lambda: None,
        *,
        notable: int = NOTABLE,
    ) -> None:
        """expected: of what the model's memories save. wake: called, on another thread, when `step` can go on.
        notable: so many tokens more are worth a restoration, or an entry.
        """
        self._folder = folder
        self._slots = slots
        self._identity = identity
        self._expected = expected
        self._wake = wake
        self._notable = notable
        self._writer = ThreadPoolExecutor(1, "disk")
        self._saving: Saving | None = None
        self._coming: Entry | None = None  # what is being saved
        self._refused: set[bytes] = set()  # tokens that could not be saved; no use to try them again
        self._is_warned = False  # since an entry was saved
        self.hits = 0  # entries that were restored
        self._entries: dict[str, Entry] = {}
        folder.sweep()
        self._read_all()

    @property
    def entries(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    @property
    def is_saving(self) -> bool:
        """Whether `step` has something to go on with."""
        return self._saving is not None

    def restore(self, prompt: Sequence[int], total: int) -> None:
        """Put an entry into a slot if it has notably more of the prompt than all of them. total: positions that may
        be needed in all.
        """
        packed, most = packed_tokens(prompt), len(prompt) - 1
        matched = self._slots.matched(prompt)
        while self._entries:
            entry = max(self._entries.values(), key=lambda entry: entry.reach(packed, most))
            reach = entry.reach(packed, most)
            if reach < matched + self._notable or self._restored(entry, prompt[:reach], total):
                return

    def step(self) -> None:
        """Go on with what is being saved, or begin with what should be."""
        try:
            if self._saving is None:
                self._begin()
            elif self._saving.step():
                self._saved()
        except (OSError, RuntimeError) as error:  # the latter is MLX's: out of memory
            self._refuse(error)

    def abandon(self) -> None:
        """Hold on to nothing that a request may want to change."""
        if self._saving is not None:
            self._saving.abandon()
        self._saving = self._coming = None

    def finish(self, within_s: float) -> None:
        """Save what can be saved until then."""
        end = time.monotonic() + within_s
        self.step()
        while self._saving is not None and self._saving.wait(end - time.monotonic()):
            self.step()
        self.abandon()
        wait([self._writer.submit(lambda: None)], end - time.monotonic())  # behind all that it has to do

    def empty(self) -> None:
        """Remove all entries of this model."""
        self.abandon()
        for name in self._entries:
            self._folder.remove(name)
        self._entries = {}

    def _read_all(self) -> None:
        for file in self._folder.files():
            if file.name.startswith(self._identity[:MODEL_DIGITS]):
                self._read(file.name)

    def _read(self, name: str) -> Arrays | None:
        """The arrays of an entry, which is known from now on; None, and it is gone, if it is none."""
        self._entries.pop(name, None)
        try:
            entry, arrays = read_entry(
                self._folder.path / name, self._identity, self._expected, self._slots.leeway
            )
        except WRONG as error:
            self._discard(name, error)
            return None
        self._entries[name] = entry
        return arrays

    def _discard(self, name: str, error: Exception) -> None:
        self._entries.pop(name, None)
        if (self._folder.path / name).exists():  # else another process removed it
            log.warning("Cache entry dropped", extra={"entry": name, "reason": explain(error)})
            if not isinstance(error, OSError):
                self._folder.remove(name)

    def _restored(self, entry: Entry, tokens: Sequence[int], total: int) -> bool:
        """Whether it is over, well or badly; False if another entry may do."""
        started = time.perf_counter()
        arrays = self._read(entry.name)
        if arrays is None:
            return False
        memory = self._slots.fresh_memory()
        memory.reserve(total)
        try:
            memory.restore(arrays, entry.points, len(tokens))
        except WRONG as error:
            self._discard(entry.name, error)
            return False
        except RuntimeError as error:  # of MLX: out of memory
            log.warning("Cache entry not restored", extra={"entry": entry.name, "reason": explain(error)})
            return True
        self._slots.put(tokens, memory)
        self._folder.used(entry.name)
        self.hits += 1
        took = f"{time.perf_counter() - started:.3f}s"
        log.info("Cache entry restored", extra={"entry": entry.name, "tokens": len(tokens), "took": took})
        return True

    def _begin(self) -> None:
        """Save the first of what slots hold that is worth it."""
        for tokens, memory in self._slots.parked():
            packed = packed_tokens(tokens)
            known = (entry.reach(packed, len(tokens)) for entry in self._entries.values())
            if len(tokens) < max(known, default=0) + self._notable or packed in self._refused:
                continue
            self._save(packed, memory, memory.restorable(len(tokens)))
            return

    def _save(self, tokens: bytes, memory: Memory, end: int) -> None:
        arrays = memory.save()
        if not arrays or not end:
            self._refused.add(tokens)
            return
        draft = Draft(self._folder, self._identity[:MODEL_DIGITS])
        points = tuple(point for point in memory.points.positions if point <= end)
        self._coming = Entry(draft.name, 0, tokens, points, end, memory.leeway)
        self._saving = Saving(draft, self._identity, self._coming, arrays, self._writer, self._wake)

    def _saved(self) -> None:
        entry, saving = self._coming, self._saving
        assert entry is not None
        assert saving is not None
        self._saving = self._coming = None
        self._refused, self._is_warned = set(), False
        for old in list(self._entries.values()):
            if entry.reach(old.tokens, old.length) >= NEARLY_ALL * old.length:
                self._folder.remove(old.name)
        self._entries[entry.name] = replace(entry, size=saving.size)
        self._forget_missing()
        log.info("Cache entry saved", extra={"entry": entry.name, "bytes": saving.size})
        self._begin()

    def _forget_missing(self) -> None:
        """What had to go for the new entry, or was removed by another process."""
        there = {file.name for file in self._folder.files()}
        self._entries = {name: entry for name, entry in self._entries.items() if name in there}

    def _refuse(self, error: Exception) -> None:
        """What could not be saved is not tried again before something else was."""
        if self._coming is not None:
            self._refused.add(self._coming.tokens)
        self.abandon()
        if not self._is_warned:
            log.warning("Cache entry not saved", extra={"reason": explain(error)})
        self._is_warned = True
