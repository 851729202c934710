"""The address: what kind it is, and taking it before anything slow is begun.

Knows nothing about what is served there.
"""

from __future__ import annotations

import contextlib
import os
import socket

BACKLOG = 2048


class AddressTaken(Exception):
    """The address is not to be had; the message is the one that Go programs print."""


def is_address(text: str) -> bool:
    """Whether this is an address rather than a name."""
    return _packed(text) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    packed = _packed(host)
    if packed is None:
        return host.lower() == "localhost"
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\1"


def _packed(text: str) -> bytes | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):  # the latter for a NUL in it
            return socket.inet_pton(family, text)
    return None


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 lets the system choose.

    It listens at once, since two sockets that only bind can share an address, and the second would learn it when
    its model is loaded. Who connects before the server runs waits for that fraction of a second.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol spelled out asyncio recognises TCP and sends small writes at once; else they may wait 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise AddressTaken(f"listen tcp {host}:{port}: {reason}") from None
    return bound
