"""Memory: how much of it this process may use, what MLX holds of it, and what it gives back.

Every function here that touches MLX's memory belongs to the worker thread.

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


def total() -> int:
    """Bytes of physical memory that this process may use: the machine's, or less where its container says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit, or the word "max"
            continue
    return min(limits)


def free() -> int:
    """Bytes of a GPU's own memory that nobody uses."""
    return int(mx.device_info()["free_memory"])


def used() -> int:
    """Bytes that MLX holds: arrays in use and buffers kept for reuse."""
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


def wire_weights() -> None:
    """On Metal, keep what is active now resident, up to what the system recommends."""
    if device.kind() == "metal":
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(mx.get_active_memory(), recommended))
