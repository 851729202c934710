"""Several processes' parts of a model in one process: a thread each, which wait for one another in sums."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from runner.loading.conversion import join_layers
from runner.machine import device, memory
from runner.models import build
from runner.models.base import Model
from runner.ranks.channel import Channel
from runner.ranks.follower import Follower
from runner.ranks.leader import Leader
from runner.sharding.division import divide
from runner.sharding.group import Group
from tests.parts.case import Case

PATIENCE_S = 60.0
Result = TypeVar("Result")


class Table:
    """Where the members of a group put what they have."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=PATIENCE_S)
        self.places: list[Any] = [None] * size


class Member:
    """One thread's end of a group. Arrays cross as numbers, since a thread computes its own only."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank = rank
        self.size = table.size
        self._table = table

    def sum(self, x: mx.array) -> mx.array:
        return self.gather(x).sum(axis=0).astype(x.dtype)

    def gather(self, x: mx.array) -> mx.array:
        table = self._table
        table.places[self.rank] = np.array(x)
        table.barrier.wait()
        found = np.stack(table.places)
        table.barrier.wait()
        return mx.array(found)


def together(size: int, do: Callable[[Group], Result]) -> Sequence[Result]:
    """What each member makes of it, by rank. If one fails so do all."""
    table = Table(size)

    def one(rank: int) -> Result:
        try:
            return do(Member(rank, table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        results = [pool.submit(one, rank) for rank in range(size)]
        errors = [result.exception() for result in results]
    found = [error for error in errors if error is not None]
    for error in sorted(found, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [result.result() for result in results]


def divided(case: Case, checkpoint: dict[str, mx.array], group: Group) -> Model:
    """One member's part of the model of the case, by the way the loader goes."""
    model = build(case.config)
    weights = model.rename(dict(checkpoint))
    model.load_weights(list(weights.items()), strict=True)
    ours = divide(model, weights, group, case.architecture)
    mx.eval(list(ours.values()))
    join_layers(model)
    return model


@contextlib.contextmanager
def leading(size: int, lost: list[str]) -> Iterator[Leader]:
    """A leader whose followers are threads; what it says of those that it lost is in the list."""
    table = Table(size)
    pairs = [socket.socketpair() for _ in range(size - 1)]
    followers = [
        Follower(Channel(theirs), partial(Member, rank, table), table.barrier.abort)
        for rank, (_, theirs) in enumerate(pairs, 1)
    ]
    leader = Leader(
        size,
        lambda: Member(0, table),
        lambda rank, reason: lost.append(f"{rank}: {reason}"),
    )

    def follow(follower: Follower) -> None:
        follower.run()
        device.leave()

    threads = [threading.Thread(target=follow, args=(follower,), daemon=True) for follower in followers]
    try:
        for thread in threads:
            thread.start()
        leader.start([Channel(ours) for ours, _ in pairs])
        yield leader
    finally:
        for ours, _ in pairs:
            ours.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE_S)
        close(pairs)
        memory.allow(None)
    assert not any(thread.is_alive() for thread in threads)


def close(pairs: Sequence[tuple[socket.socket, socket.socket]]) -> None:
    """The sockets of a leader, which watches one of each pair, and of its followers."""
    for ours, _ in pairs:
        ours.shutdown(socket.SHUT_RDWR)
    for thread in threading.enumerate():
        if thread.name.startswith("rank "):
            thread.join(PATIENCE_S)
    for pair in pairs:
        for one in pair:
            one.close()
