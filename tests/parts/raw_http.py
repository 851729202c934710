"""Requests that are spelled by hand, and answers that are read so."""

from __future__ import annotations

import contextlib
import socket

from tests.parts.serving import Serving


def exchange(served: Serving, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is spelled here; status, headers in lower case, and body of the answer."""
    with served.raw(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body) as connection:
        return read_response(connection)


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with Content-Length, or until the end of the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(65536):
            data += block
            head, separator, body = data.partition(b"\r\n\r\n")
            headers = _headers(head)
            if separator and len(body) >= int(headers.get("content-length", 1 << 60)):
                break
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, _headers(head), body


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
