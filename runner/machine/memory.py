"""Memory: how much of it this process may use, what MLX holds of it, and what it gives back.

Every function here that touches MLX's memory belongs to the worker thread, but for `used`, which reads two numbers.

Knows nothing about models or requests.
"""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx

from runner.machine import device

CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)

KEPT_SHARE = 1 / 16
SHARE = 0.8  # of the memory, where nobody says how much; what Metal recommends is a share already

_allowed: int | None = None  # bytes, by whoever started us


def allow(asked: int | None) -> None:
    """From now on MLX may hold so many bytes; None: a share of what there is. Near it MLX slows down."""
    global _allowed
    _allowed = asked
    mx.set_memory_limit(budget())


def budget() -> int:
    """Bytes that MLX may hold."""
    if _allowed is not None:
        return _allowed
    if device.kind() == "metal":
        return int(mx.device_info()["max_recommended_working_set_size"])
    return int(SHARE * (total() if device.kind() == "cpu" else int(mx.device_info()["total_memory"])))


def total() -> int:
    """Bytes of physical memory that this process may use: the machine's, or less where its container says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit, or the word "max"
            continue
    return min(limits if _allowed is None else [*limits, _allowed])


def free() -> int:
    """Bytes of a GPU's own memory that nobody uses, and that this process may use."""
    left = int(mx.device_info()["free_memory"])
    return left if _allowed is None else min(left, _allowed)


def active() -> int:
    """Bytes of arrays in use."""
    return mx.get_active_memory()


def used() -> int:
    """Bytes that MLX holds: arrays in use and buffers kept for reuse. Any thread may ask; nobody waits."""
    return mx.get_active_memory() + mx.get_cache_memory()


def release_buffers() -> None:
    """Give buffers that no array uses back to the system."""
    mx.clear_cache()


def tidy_up() -> None:
    """The same between two steps. With CUDA buffers are kept for the next one, up to a share of the memory, since
    new ones are made by the driver there. What that brings has not been measured.
    """
    if device.kind() != "cuda" or mx.get_cache_memory() > KEPT_SHARE * int(mx.device_info()["total_memory"]):
        release_buffers()


def wire_active() -> None:
    """On Metal, keep what is active now resident, up to what the system recommends."""
    if device.kind() == "metal":
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(mx.get_active_memory(), recommended))
