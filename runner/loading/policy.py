"""What becomes of quantized matrices on this machine: they stay packed, or they become floats when they are loaded.

Floats cost memory and win time where packed products are slow: on a CPU, where only float32 reaches the BLAS, and
with CUDA for kinds that no kernel of ours multiplies, since MLX's packed products gain nothing from several rows
there. With one a model of 8 billion parameters in 4 bits decodes twice as fast as it does as floats, on an H200.

Knows nothing about models, files or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.machine import device, memory

CPU_SHARE = 0.6  # of the memory that we may use; the rest is for caches and everybody else
CUDA_SHARE = 0.4  # of the memory that is free: whoever planned for the packed size still finds most of it


@dataclass(frozen=True, slots=True)
class Decision:
    """The reason is a few words for the log."""

    packed: bool
    reason: str


def packed_or_dense(dense_bytes: int, *, asked: bool, has_kernels: bool) -> Decision:
    """dense_bytes: what the whole model takes as floats. asked: whoever started us wants them packed. has_kernels:
    there are some of ours for all of them.
    """
    kind = device.kind()
    if asked:
        return Decision(True, "asked for")
    if kind == "metal" or has_kernels:
        return Decision(True, f"{kind} computes with them")
    limit = int(CPU_SHARE * memory.total() if kind == "cpu" else CUDA_SHARE * memory.free())
    if dense_bytes > limit:
        return Decision(True, f"{dense_bytes} bytes as floats, limit {limit}")
    return Decision(False, f"faster as floats on {kind}")
