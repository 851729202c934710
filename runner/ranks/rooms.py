"""Sums through memory of GPUs that all processes of a group write to, where they can have it.

Belongs to the thread that computes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import mlx.core as mx

from runner.kernels import peer_sum_cuda
from runner.machine import cuda_rooms
from runner.machine.cuda_rooms import HANDLE, RoomError
from runner.ranks.votes import all_say
from runner.sharding.group import Group

log = logging.getLogger(__name__)

Sum = Callable[[mx.array], mx.array]
TRIED = (8, 4096)  # numbers of sums that must be right before the first that counts


def near_sum(group: Group) -> Sum | None:
    """For arrays that `peer_sum_cuda.fits`; None unless all can have it: their GPUs are in one machine and reach
    each other, and the sums are those of the group. Called by all.
    """
    addresses = _addresses(group)
    if not all_say(group, bool(addresses)):
        return None
    halves = [[address & 0xFFFFFFFF, address >> 32] for address in addresses]
    near = peer_sum_cuda.cuda(group.rank, group.size, mx.array(halves, mx.uint32))
    right = [
        _is_right(group, near, count) for count in TRIED
    ]  # every one, whatever it finds: others wait in it
    if not all_say(group, all(right)):
        log.warning("Sums through shared memory are wrong on this machine: the usual ones instead")
        return None
    log.info("Sums through shared memory", extra={"bytes": peer_sum_cuda.room_bytes(group.size)})
    return near


def _addresses(group: Group) -> list[int]:
    """Of all rooms, by rank; none where we have no room, or cannot reach another's."""
    own, handle = 0, bytes(HANDLE)
    try:
        own, handle = cuda_rooms.made(peer_sum_cuda.room_bytes(group.size))
    except RoomError as error:
        log.info("No room for sums", extra={"error": str(error)})
    handles: list[list[int]] = group.gather(mx.array([*handle], mx.int32)).tolist()  # type: ignore[assignment]  # typed as object
    if not all(any(one) for one in handles):
        return []
    try:
        return [
            own if rank == group.rank else cuda_rooms.opened(bytes(one)) for rank, one in enumerate(handles)
        ]
    except RoomError as error:
        log.info("No way to another's room for sums", extra={"error": str(error)})
        return []


def _is_right(group: Group, near: Sum, count: int) -> bool:
    """Small numbers, of which every sum is exact."""
    x = (mx.arange(count) % 7 + group.rank).astype(mx.float32)
    return bool(mx.array_equal(near(x), group.sum(x)))
