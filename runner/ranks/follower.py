"""A process that follows: it does with its part of the model what rank 0 does with its own.

Knows nothing about requests, and nothing about how it was started.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from runner.errors import explain
from runner.generation.plan import StepPlan
from runner.generation.probe import measured
from runner.generation.rehearsal import rehearse
from runner.generation.sampling import Draw
from runner.generation.step import Stepper
from runner.generation.tokens import Tokens
from runner.generation.trial import kernels_agree
from runner.kernels import compiled
from runner.kernels.choice import rows_attention
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.machine import device, memory
from runner.machine.processors import Work
from runner.ranks import wire
from runner.ranks.channel import Channel, Message
from runner.ranks.leading import begin, shared
from runner.ranks.votes import agreed, all_say
from runner.sharding.group import Group
from runner.store.resolve import open_model

log = logging.getLogger(__name__)

BEAT_S = 1.0
TIDY_EVERY = 256  # steps between two returns of unused buffers


class Follower:
    """Belongs to the thread that computes."""

    def __init__(self, channel: Channel, join: Callable[[], Group], leave: Callable[[], None]) -> None:
        """join: makes the group. leave: called on a thread of its own when rank 0 is gone: a sum may be waited for,
        so it is to end the process.
        """
        self._channel = channel
        self._join = join
        self._leave = leave
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._group: Group | None = None
        self._coming: LoadedModel | None = None  # brought, and not served yet
        self._loaded: LoadedModel | None = None
        self._stepper: Stepper | None = None
        self._rehearsal: Iterator[str] | None = None  # of the one, of the other
        self._coming_rehearsal: Iterator[str] | None = None
        self._plan = StepPlan(())
        self._steps = 0

    def run(self) -> None:
        """Until rank 0 is gone. Raises whatever goes wrong: then the group is no more."""
        threading.Thread(target=self._receive, name="rank 0", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        device.prepare()
        self._channel.send("answer", "")
        while (message := self._messages.get()) is not None:
            kind, *values = message
            getattr(self, f"_on_{kind}")(*values)

    def _receive(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._messages.put(message)
        self._leave()
        self._messages.put(None)

    def _beat(self) -> None:
        """Say that we are here, and whether any other thread of ours does anything."""
        work = Work()
        while True:
            try:
                self._channel.send("beat", work.goes_on())
            except OSError:
                return
            threading.Event().wait(BEAT_S)

    @property
    def _slots(self) -> Any:
        assert self._loaded is not None
        return self._loaded.slots

    def _on_join(self, memory_budget: int | None) -> None:
        memory.allow(memory_budget)
        self._group = self._join()

    def _on_load(self, how: Mapping[str, Any]) -> None:
        said = ""
        try:
            files = open_model(how["reference"], Path(how["store"]))
            self._coming = load(
                files,
                lambda share: None,
                packed=how["packed"],
                slots=how["slots"],
                context_length=how["context_length"],
                kv_type=how["kv_type"],
                group=self._group,
            )
        except Exception as error:  # noqa: BLE001  # rank 0 tells whoever asked
            said = explain(error)
        self._channel.send("answer", said)

    def _on_forget(self) -> None:
        self._coming = self._coming_rehearsal = None
        memory.release_buffers()

    def _on_try(self) -> None:
        """Where one of us is not content with our kernels, all load once more without."""
        assert self._coming is not None
        assert self._group is not None
        if not all_say(self._group, kernels_agree(self._coming, rows_attention())):
            compiled.distrust()
            self._on_forget()

    def _on_rehearse(self) -> None:
        """The first piece before the model is served, each other one later."""
        if self._coming is not None:
            self._coming_rehearsal = rehearse(self._coming, rows_attention())
        rehearsal = self._coming_rehearsal or self._rehearsal
        assert rehearsal is not None
        next(rehearsal, None)

    def _on_serve(self) -> None:
        assert self._coming is not None
        loaded = self._loaded = self._coming
        self._stepper = Stepper(loaded.model, loaded.slots, rows_attention(), packs=device.packs_prompts())
        self._rehearsal = self._coming_rehearsal
        self._coming = self._coming_rehearsal = None

    def _on_probe(self) -> None:
        assert self._loaded is not None
        group = self._group
        assert group is not None
        measured(self._loaded.model, self._slots.fresh_memory(), lambda said: agreed(group, said))

    def _on_unload(self) -> None:
        self._loaded = self._stepper = self._rehearsal = None
        memory.release_buffers()

    def _on_step(self, rows: list[list[Any]]) -> None:
        assert self._stepper is not None
        self._plan = wire.read(rows)
        begin(self._stepper.forward(self._plan))
        self._steps += 1
        if self._steps % TIDY_EVERY == 0:
            memory.tidy_up()

    def _on_drawn(self, groups: list[list[int]]) -> None:
        assert self._stepper is not None
        assert self._group is not None
        for slots in groups:
            tokens = Tokens(shared(self._group, mx.zeros(len(slots), mx.uint32)), ())  # read by nobody here
            self._stepper.enter({slot: Draw(tokens, row) for row, slot in enumerate(slots)})

    def _on_feed(self) -> None:
        assert self._stepper is not None
        self._stepper.feed(self._plan)
        self._stepper.wait()
        memory.tidy_up()

    def _on_part(self) -> None:
        assert self._stepper is not None
        self._stepper.part()

    def _on_take(self, number: int) -> None:
        self._slots.take(number)

    def _on_give(self, number: int) -> None:
        self._slots.give(number, ())
        memory.tidy_up()

    def _on_drop(self, number: int) -> None:
        self._slots.drop(number)
        memory.tidy_up()
