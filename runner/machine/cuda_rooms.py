"""Memory of a GPU that processes of the same machine can all write to, by NVIDIA's driver.

MLX's own memory cannot be shared: nobody is told where an array lies. So a room is no array, and MLX does not count
it.

Knows nothing about what is kept there, or who the processes are.
"""

from __future__ import annotations

import ctypes
from functools import cache

from runner.machine import cuda

HANDLE = 64  # bytes
PEERS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS


class RoomError(Exception):
    """The driver is not there, or refused with this status."""


class Handle(ctypes.Structure):
    """By which another process finds a room."""

    _fields_ = [("bytes", ctypes.c_ubyte * HANDLE)]  # ctypes looks for this name


def made(size: int) -> tuple[int, bytes]:
    """A room of zeros in the memory of the first GPU that is visible: its address, and its handle. It stays until
    the process ends. Raises RoomError.
    """
    driver, address, handle = _driver(), ctypes.c_uint64(), Handle()
    _check("cuMemAlloc", driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
    _check("cuMemsetD8", driver.cuMemsetD8_v2(address, ctypes.c_ubyte(0), ctypes.c_size_t(size)))
    _check("cuIpcGetMemHandle", driver.cuIpcGetMemHandle(ctypes.byref(handle), address))
    return address.value, bytes(handle.bytes)


def opened(handle: bytes) -> int:
    """The address at which we reach the room of another process. Raises RoomError: it is on another machine, or
    their GPUs do not reach each other.
    """
    address, found = ctypes.c_uint64(), Handle.from_buffer_copy(handle)
    _check("cuIpcOpenMemHandle", _driver().cuIpcOpenMemHandle_v2(ctypes.byref(address), found, PEERS))
    return address.value


@cache
def _driver() -> ctypes.CDLL:
    """With the context that MLX has, current on the thread that asks first."""
    try:
        driver = ctypes.CDLL(cuda.DRIVER)
    except OSError as error:
        raise RoomError(str(error)) from None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check("cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), 0))
    _check("cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _check("cuCtxSetCurrent", driver.cuCtxSetCurrent(context))
    return driver


def _check(call: str, status: int) -> None:
    if status:
        raise RoomError(f"{call} failed with {status}")
