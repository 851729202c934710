"""Rank 0's end of all the sockets: it tells the followers what to do, asks them about a load, and notices who is
gone.

Knows nothing about how followers were started.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.errors import LoadError
from runner.generation.step import Stepper
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.machine import device
from runner.ranks import waits
from runner.ranks.channel import Channel
from runner.ranks.leading import LeadingSlots, LeadingStepper
from runner.ranks.life import LOOK_S, Life
from runner.ranks.votes import agreed, all_say
from runner.ranks.waits import Waits
from runner.sharding.group import Group

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # for a follower's end to be noticed, which is why a sum failed


class Leader:
    """`tell`, `join`, `bring` and what they make belong to the thread that computes."""

    def __init__(
        self,
        size: int,
        join: Callable[[], Group],
        on_lost: Callable[[int, str], None],
        on_joined: Callable[[], None] = lambda: None,
        *,
        one_machine: bool = True,
    ) -> None:
        """join: makes the group, on the thread that computes. on_lost: called once, on any thread, with a rank and
        its trouble. on_joined: nobody needs what the group was found by any longer. one_machine: all share its
        memory.
        """
        self.size = size
        self._channels: Sequence[Channel] = ()
        self._join = join
        self._on_lost = on_lost
        self._on_joined = on_joined
        self._one_machine = one_machine
        self._answers: list[queue.SimpleQueue[str]] = [queue.SimpleQueue() for _ in range(1, size)]
        self._group: Group | None = None
        self._lives = [Life() for _ in range(1, size)]
        self.waits = Waits(foretells=device.kind() != "cpu")
        self._losing = threading.Lock()
        self._lost_one = threading.Event()

    @property
    def group(self) -> Group:
        assert self._group is not None
        return self._group

    def start(self, channels: Sequence[Channel]) -> None:
        """Watch the followers. channels: to ranks 1, 2 and so on."""
        self._channels = channels
        for rank in range(1, self.size):
            threading.Thread(target=self._watch, args=(rank,), name=f"rank {rank}", daemon=True).start()
        threading.Thread(target=self._look, name="rank 0", daemon=True).start()

    def join(self, memory_budget: int | None) -> None:
        """Become a group. memory_budget: bytes that each of us may hold."""
        self._refused()  # each says so when it is ready
        with self._excused():
            self.tell("join", memory_budget)
            self._group = self._join()
        self._on_joined()
        log.info("Ranks joined", extra={"size": self.size})

    @contextlib.contextmanager
    def _excused(self) -> Iterator[None]:
        """While nobody can be expected to say that it is there."""
        for life in self._lives:
            life.is_excused = True
        yield
        for life in self._lives:
            life.is_excused = False

    @contextlib.contextmanager
    def together(self, kind: str) -> Iterator[None]:
        """Around what all do when they are told this."""
        self.tell(kind)
        with self.waits.on(None):
            yield

    def share_of(self, budget: int) -> int:
        """What each process may hold of a memory."""
        return budget // self.size if self._one_machine else budget

    def tell(self, kind: str, *values: Any) -> None:
        for channel in self._channels:
            with contextlib.suppress(OSError):  # whoever watches it says what is wrong
                channel.send(kind, *values)

    def bring(self, how: Mapping[str, Any], load: Callable[[], LoadedModel]) -> LoadedModel:
        """Everybody loads; raises LoadError, or whatever our own load raises, and then nobody has anything new."""
        self.tell("load", how)
        try:
            loaded = load()
        except BaseException:
            self._refused()
            self.tell("forget")
            raise
        if refused := self._refused():
            self.tell("forget")
            raise LoadError(refused)
        return replace(loaded, slots=LeadingSlots(loaded.slots, self.tell))

    def stepper(self, loaded: LoadedModel, at_once: AtOnce | None, *, packs: bool) -> Stepper:
        """For a model that was brought; everybody begins to serve it."""
        self.tell("serve")
        return LeadingStepper(loaded, self.group, self.tell, self.waits, at_once, packs=packs)

    def agreed(self, said: bool) -> bool:
        """What we say holds for all."""
        return agreed(self.group, said)

    def all_say(self, said: bool) -> bool:
        """Whether we and all others say so."""
        return all_say(self.group, said)

    def fail(self, reason: str) -> None:
        """Our step failed, so that others wait for sums that never come. Whoever is gone is the better reason."""
        threading.Event().wait(LAST_WORDS_S)
        self._lost(0, reason)

    def _refused(self) -> str:
        """Wait for an answer of each; what the first said who refused, "" for nobody."""
        said = [answers.get() for answers in self._answers]
        return next((f"rank {rank}: {one}" for rank, one in enumerate(said, 1) if one), "")

    def _watch(self, rank: int) -> None:
        """Listen to a follower until it is lost."""
        channel, life = self._channels[rank - 1], self._lives[rank - 1]
        while True:
            if channel.stays_silent(LOOK_S):
                if life.nothing():
                    return self._lost(rank, f"it has said nothing for {life.silence_s:g} s")
                continue
            life.something()
            message = channel.receive()
            if message is None:
                return self._lost(rank, "it ended")
            if message[0] == "beat":
                life.beat(message[1])
            elif message[0] == "answer":
                life.begun()
                self._answers[rank - 1].put(message[1])
            elif message[0] == "failed":
                return self._lost(rank, message[1])

    def _look(self) -> None:
        """Notice who is there and never does its part."""
        while not self._lost_one.wait(waits.LOOK_S):
            if stuck_s := self.waits.look():
                self._in_vain(stuck_s)

    def _in_vain(self, stuck_s: float) -> None:
        """The others' part of what we do did not come."""
        if self.waits.foretells:
            return self._lost(0, f"a step like others came no further for {stuck_s:g} s")
        for rank, life in enumerate(self._lives, 1):
            if life.is_still:
                return self._lost(rank, f"it computes nothing, and all have waited for it for {stuck_s:g} s")
        return None

    def _lost(self, rank: int, reason: str) -> None:
        self._lost_one.set()
        if self._losing.acquire(blocking=False):
            self._on_lost(rank, reason)
