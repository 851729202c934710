"""What the MLX thread serves: a model that is replaced as a whole, its engine, what of it is on the disk, and what
is left of its rehearsal.

Knows nothing about threads, queues or clients.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.disk.disk_cache import DiskCache
from runner.disk.folder import Folder
from runner.disk.opening import open_disk_cache
from runner.errors import explain
from runner.generation.budget import Limits
from runner.generation.engine import Engine
from runner.generation.probe import measured
from runner.generation.rehearsal import rehearse
from runner.generation.trial import kernels_agree
from runner.kernels import compiled
from runner.kernels.choice import rows_attention
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.machine import device, memory
from runner.store.files import ModelFiles
from runner.store.resolve import open_model
from runner.totals import Totals
from runner.types import DiskStatus, KVType, SlotStatus

if TYPE_CHECKING:  # imported by who has any
    from runner.ranks.leader import Leader

log = logging.getLogger(__name__)

SAVE_AT_END_S = 2.0  # of the three that a forced exit leaves; hosts wait five


class Terms(NamedTuple):
    """How every model is served; see `loader.load`. cache_folder: where slots are saved."""

    store: Path
    packed: bool
    slots: int
    context_length: int | None
    kv_type: KVType
    cache_folder: Folder | None


class Around(NamedTuple):
    """What the thread does for us. progress: of a load, a share of 1. housekeep: behind a chunk or an answer. wake:
    there is something to do.
    """

    progress: Callable[[float], None]
    housekeep: Callable[[], None]
    wake: Callable[[], None]


class Serving:
    """Belongs to the MLX thread; `loaded` may be read on any."""

    def __init__(self, terms: Terms, around: Around, totals: Totals, ranks: Leader | None) -> None:
        """ranks: other processes, which have a part of each model."""
        self.loaded: LoadedModel | None = None
        self.engine: Engine | None = None
        self._terms = terms
        self._around = around
        self._totals = totals
        self._ranks = ranks
        self._disk: DiskCache | None = None
        self._rehearsal: Iterator[str] | None = None  # what is left of it

    def load(self, reference: str) -> Callable[[], None]:
        """Replace the model, or change nothing. Returned is what is left to do then: behind the load, which nobody
        waits for any longer, and before all requests.
        """
        files = open_model(reference, self._terms.store)
        loaded = self._brought(reference, files)
        rehearsal = rehearse(loaded, rows_attention()) if device.compiles_kernels() else None
        if rehearsal is not None:
            with self.in_step("rehearse"):
                next(rehearsal)
        self.save_all()
        self.take(loaded)
        self._rehearsal = rehearsal
        return lambda: self._probe(loaded, files)

    def take(self, loaded: LoadedModel) -> None:
        """Serve a model that is complete."""
        self.loaded = loaded
        at_once, packs = rows_attention(), device.packs_prompts()
        self.engine = Engine(
            loaded,
            self._around.housekeep,
            at_once,
            packs=packs,
            totals=self._totals,
            restore=self._restore,
            stepper=None if self._ranks is None else self._ranks.stepper(loaded, at_once, packs=packs),
        )
        loaded.grammars.prepare_ahead()

    def unload(self) -> None:
        self.save_all()
        self.loaded = self.engine = self._rehearsal = None
        if self._ranks is not None:
            self._ranks.tell("unload")

    def empty_cache(self) -> tuple[SlotStatus, ...]:
        """Forget what slots hold that no request has, in memory and on the disk; what that was."""
        emptied = [] if self.engine is None else self.engine.empty()
        if self._disk is not None:
            self._disk.empty()
        memory.release_buffers()
        return tuple(SlotStatus(*held) for held in emptied)

    @property
    def has_leisure(self) -> bool:
        """Whether there is something to do while nobody wants anything."""
        return self._rehearsal is not None or (self._disk is not None and self._disk.is_saving)

    def rehearse(self) -> bool:
        """The next piece; False if none was left. Whatever fails, requests may do without."""
        if self._rehearsal is None:
            return False
        try:
            with self.in_step("rehearse"):
                piece = next(self._rehearsal, None)
            if piece is None:
                self._rehearsal = None
                memory.release_buffers()
        except Exception:  # rule 4 of the thread
            log.warning("Rehearsal ended early", exc_info=True)
            self._rehearsal = None
        self._around.wake()
        return True

    def save_some(self) -> None:
        """The next piece of what is to be on the disk."""
        if self._disk is None:
            return
        try:
            self._disk.step()
        except Exception:  # rule 4 of the thread
            log.exception("Nothing is saved any more")
            self._disk.abandon()
            self._disk = None

    def stop_saving(self) -> None:
        """Somebody wants something: a piece that was begun is begun anew later."""
        if self._disk is not None:
            self._disk.abandon()

    def save_all(self) -> None:
        if self._disk is not None:
            self._disk.finish(SAVE_AT_END_S)
        self._disk = None

    def slots(self) -> tuple[SlotStatus, ...]:
        held = [] if self.loaded is None else self.loaded.slots.held()
        return tuple(SlotStatus(*one) for one in held)

    def disk_status(self) -> DiskStatus | None:
        disk = self._disk
        return None if disk is None else DiskStatus(disk.entries, disk.nbytes, disk.hits)

    @contextlib.contextmanager
    def in_step(self, kind: str = "") -> Iterator[None]:
        """Around what all processes do together. kind: what the others are told."""
        ranks = self._ranks
        try:
            with contextlib.nullcontext() if ranks is None or not kind else ranks.together(kind):
                yield
        except Exception as error:
            self.end_all(error)
            raise

    def end_all(self, error: Exception) -> None:
        """What fails in one process leaves the others waiting for its part of a sum."""
        if self._ranks is not None:
            log.error("Failed in step with others", exc_info=error)
            self._ranks.fail(explain(error))

    def _brought(self, reference: str, files: ModelFiles) -> LoadedModel:
        """With kernels of ours if they are right here."""
        loaded = self._bring(reference, files)
        if not device.compiles_kernels() or self._is_right(loaded):
            return loaded
        log.warning("Decoding is slower: kernels of ours are wrong on this device")
        compiled.distrust()
        del loaded
        return self._bring(reference, files)

    def _is_right(self, loaded: LoadedModel) -> bool:
        """What all of us found in a trial."""
        with self.in_step("try"):
            found = kernels_agree(loaded, rows_attention())
            return found if self._ranks is None else self._ranks.all_say(found)

    def _bring(self, reference: str, files: ModelFiles) -> LoadedModel:
        """In this process, or our part of it here and the others elsewhere."""
        terms, progress = self._terms, self._around.progress
        how: dict[str, Any] = {"packed": terms.packed, "slots": terms.slots}
        how |= {"context_length": terms.context_length, "kv_type": terms.kv_type}
        if self._ranks is None:
            return load(files, progress, **how)
        group = self._ranks.group
        told = {"reference": reference, "store": str(terms.store), **how}
        return self._ranks.bring(told, lambda: load(files, progress, **how, group=group))

    def _probe(self, loaded: LoadedModel, files: ModelFiles) -> None:
        """What requests will take of the memory, and what of them is on the disk."""
        assert self.engine is not None
        folder, slots = self._terms.cache_folder, loaded.slots
        agreed = bool if self._ranks is None else self._ranks.agreed
        with self.in_step("probe"):
            costs = measured(loaded.model, slots.fresh_memory(), agreed)
        self.engine.keep_to(Limits(memory.budget(), costs, loaded.prefill_chunk))
        if folder is not None:
            self._disk = open_disk_cache(folder, files, loaded.model, slots, device.kind(), self._around.wake)

    def _restore(self, prompt: Sequence[int], total: int) -> None:
        if self._disk is not None:
            self._disk.restore(prompt, total)
