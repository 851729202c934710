"""Taking the address, before anything slow is begun.

Knows nothing about what is served there.
"""

from __future__ import annotations

import os
import socket


class AddressTaken(Exception):
    """The address is not to be had; the message is the one that Go programs print."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address but does not listen yet; port 0 lets the system choose."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise AddressTaken(f"listen tcp {host}:{port}: {reason}") from None
    return bound
