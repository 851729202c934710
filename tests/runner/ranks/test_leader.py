"""Rank 0 and its sockets: who is lost, and why, is said once."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from runner.errors import LoadError
from runner.ranks.channel import Channel
from runner.ranks.leader import Leader
from runner.ranks.waits import Waits
from tests.parts.fakes import saying
from tests.parts.ranks import Member, Table, close

WAIT_S = 20.0
Lost = queue.SimpleQueue[tuple[int, str]]


@pytest.fixture
def lost() -> Lost:
    return queue.SimpleQueue()


@pytest.fixture
def others(lost: Lost) -> Iterator[tuple[Leader, list[Channel]]]:
    """A leader of three, and what ranks 1 and 2 have of it."""
    pairs = [socket.socketpair() for _ in range(2)]
    leader = Leader(3, lambda: Member(0, Table(1)), lambda rank, reason: lost.put((rank, reason)))
    leader.start([Channel(ours) for ours, _ in pairs])
    yield leader, [Channel(theirs) for _, theirs in pairs]
    close(pairs)


def test_whose_socket_ends_is_lost_and_the_next_one_is_not_told(
    others: tuple[Leader, list[Channel]], lost: Lost
) -> None:
    _, (first, second) = others
    second.close()
    assert lost.get(timeout=WAIT_S) == (2, "it ended")
    first.close()
    with pytest.raises(queue.Empty):
        lost.get(timeout=0.2)


def test_who_fails_says_why(others: tuple[Leader, list[Channel]], lost: Lost) -> None:
    _, (first, _) = others
    first.send("beat", True)
    first.send("failed", "out of memory: so it is")
    assert lost.get(timeout=WAIT_S) == (1, "out of memory: so it is")


def test_on_a_gpu_who_waits_in_a_step_for_longer_than_in_others_of_its_kind_ends_all(
    others: tuple[Leader, list[Channel]], lost: Lost
) -> None:
    leader, _ = others
    leader.waits = Waits(foretells=True)
    leader.waits.took("a step", 0.1)
    with leader.waits.on("a step"):
        assert lost.get(timeout=WAIT_S) == (0, "a step like others came no further for 3.5 s")


def test_our_own_trouble_is_the_reason_unless_somebody_is_gone(
    others: tuple[Leader, list[Channel]], lost: Lost
) -> None:
    leader, (first, _) = others
    threading.Thread(target=first.close).start()
    leader.fail("a sum came to nothing")
    assert lost.get(timeout=WAIT_S) == (1, "it ended")


def test_our_own_trouble_ends_all(others: tuple[Leader, list[Channel]], lost: Lost) -> None:
    leader, _ = others
    leader.fail("a sum came to nothing")
    assert lost.get(timeout=WAIT_S) == (0, "a sum came to nothing")


def test_a_load_that_another_refuses_is_refused(others: tuple[Leader, list[Channel]]) -> None:
    leader, channels = others
    for channel, said in zip(channels, ("", "no room here"), strict=True):
        channel.send("answer", said)
    with pytest.raises(LoadError, match="rank 2: no room here"):
        leader.bring({"reference": "x"}, lambda: saying("a", "b"))
    for channel in channels:
        assert [channel.receive(), channel.receive()] == [["load", {"reference": "x"}], ["forget"]]
