"""Messages between two processes: JSON over a socket, each behind its length.

Knows nothing about what they mean.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from typing import Any

Message = list[Any]
"""What it is about, then its values."""

LENGTH = struct.Struct("!I")


class Channel:
    """One end. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, kind: str, *values: Any) -> None:
        """Raises OSError if the other end is gone."""
        body = json.dumps([kind, *values], separators=(",", ":")).encode()
        with self._sending:
            self._connection.sendall(LENGTH.pack(len(body)) + body)

    def receive(self) -> Message | None:
        """The next message; None if the other end is gone."""
        try:
            head = self._read(LENGTH.size)
            return None if head is None else self._message(LENGTH.unpack(head)[0])
        except OSError:
            return None

    def stays_silent(self, seconds: float) -> bool:
        """Wait until there is something to receive; True if so many seconds pass and there is nothing."""
        return not select.select([self._connection], [], [], seconds)[0]

    def close(self) -> None:
        self._connection.close()

    def _message(self, length: int) -> Message | None:
        body = self._read(length)
        message: Message | None = None if body is None else json.loads(body)
        return message

    def _read(self, length: int) -> bytes | None:
        """So many bytes; None if the other end is gone before."""
        parts = []
        while length:
            part = self._connection.recv(length)
            if not part:
                return None
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
