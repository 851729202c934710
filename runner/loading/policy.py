"""What becomes of quantized matrices on this machine: they stay packed, or they become floats when they are loaded.

Knows nothing about models, files or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.machine import device, memory

# Of the memory, for weights dequantized on a CPU; the rest is for caches and everybody else.
DENSE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Decision:
    """The reason is a few words for the log."""

    packed: bool
    reason: str


def packed_or_dense(dense_bytes: int, *, asked: bool) -> Decision:
    """dense_bytes: what the whole model takes as floats. asked: whoever started us wants them packed."""
    if asked:
        return Decision(True, "asked for")
    if device.kind() != "cpu":
        return Decision(True, f"{device.kind()} computes with them")
    limit = int(DENSE_SHARE * memory.total())
    if dense_bytes > limit:
        return Decision(True, f"{dense_bytes} bytes as floats, limit {limit}")
    return Decision(False, "faster as float32 on a CPU")  # BLAS beats the kernels there
