"""What NVIDIA's driver knows about the GPU and MLX does not tell.

Knows nothing about kernels.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

DRIVER = "libcuda.so.1"
COUNT, SHARED = 16, 97  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, .._MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


class Processors(NamedTuple):
    """How many there are; shared: bytes of shared memory that a block of one may have."""

    number: int
    shared: int


@cache
def processors() -> Processors:
    """Those of the GPU that MLX uses, the first one that is visible; none where the driver cannot be asked."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return Processors(0, 0)
    return Processors(_attribute(driver, COUNT), _attribute(driver, SHARED))


def _attribute(driver: ctypes.CDLL, which: int) -> int:
    value = ctypes.c_int()
    return 0 if driver.cuDeviceGetAttribute(ctypes.byref(value), which, 0) else value.value
