"""Which operations of ours the device has a kernel for.

Knows nothing about models or requests.
"""

from __future__ import annotations

from runner.kernels.rows_attention import AtOnce
from runner.kernels.rows_attention_cuda import CUDA
from runner.machine import device


def rows_attention() -> AtOnce | None:
    """How rows that decode together attend at once; None: they do not."""
    return CUDA if device.kind() == "cuda" else None
