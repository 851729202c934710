"""Events that cross to the loop together: none is lost, each in its order, one call for many."""

from __future__ import annotations

import asyncio
import logging
from threading import Thread

import pytest

from api.inbox import Inbox
from runner.types import Event, Started
from tests.parts.streams import DEADLINE_S


class Kept:
    """A receiver that notes how many had arrived each time it was to pass them on."""

    def __init__(self, wanted: int = 0) -> None:
        self.events: list[Event] = []
        self.passed_on: list[int] = []
        self.complete = asyncio.Event()
        self._wanted = wanted

    def arrive(self, event: Event) -> None:
        self.events.append(event)

    def pass_on(self) -> None:
        self.passed_on.append(len(self.events))
        if len(self.events) >= self._wanted:
            self.complete.set()


class Broken(Kept):
    def pass_on(self) -> None:
        raise RuntimeError("cannot pass this on")


def test_what_is_put_in_before_the_loop_looks_arrives_at_once() -> None:
    async def scene() -> None:
        inbox, receivers = Inbox(), [Kept(), Kept()]
        for number in range(5):
            for receiver in receivers:
                inbox.put(receiver, Started(number))
        inbox.call()
        assert not any(receiver.events for receiver in receivers)
        await asyncio.gather(*(receiver.complete.wait() for receiver in receivers))
        for receiver in receivers:
            assert receiver.events == [Started(number) for number in range(5)]
            assert receiver.passed_on == [5]

    asyncio.run(scene())


def test_nothing_that_other_threads_put_in_while_the_loop_looks_is_lost() -> None:
    count = 20_000

    async def scene() -> None:
        inbox, receivers = Inbox(), [Kept(count) for _ in range(3)]

        def put(receiver: Kept) -> None:
            for number in range(count):
                inbox.put(receiver, Started(number))
                inbox.call()

        threads = [Thread(target=put, args=(receiver,)) for receiver in receivers]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(receiver.complete.wait() for receiver in receivers))
        for receiver in receivers:
            assert receiver.events == [Started(number) for number in range(count)]

    asyncio.run(scene())


def test_a_receiver_that_fails_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        inbox, sound = Inbox(), Kept()
        inbox.put(Broken(), Started(1))
        inbox.put(sound, Started(2))
        inbox.call()
        async with asyncio.timeout(DEADLINE_S):
            await sound.complete.wait()

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(scene())
    assert "cannot pass this on" in caplog.text


def test_an_event_for_a_loop_that_is_closed_is_dropped() -> None:
    async def scene() -> Inbox:
        return Inbox()

    inbox = asyncio.run(scene())
    inbox.put(Broken(), Started(1))
    inbox.call()
