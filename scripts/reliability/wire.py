"""HTTP as no library would write it: heads, frames and bytes, over connections of their own."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time

from reliability import changes
from reliability.kinds import Kind
from reliability.process import SILENT_S, Gone, Hangs, Process
from reliability.replies import Wrong

HEADS = (
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /v1/status HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\nHost: [::1]\r\n\r\n",
    b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 43\r\n\r\n"
    b'{"prompt": "x", "options":{"num_predict":2}}'[:43],
    b"POST /load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /completion HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n"
    b'{"prompt":"x"}',
    b"DELETE /v1/cache HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PUT /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
)
LINES = (
    b"Host: evil.example", b"Host:", b"Origin: null", b"Content-Length: 2", b"Content-Length: -1",
    b"Content-Length: 0x2", b"Content-Length: 1_0", b"Content-Length: \xb2", b"Content-Length: 2, 2",
    b"Content-Length: " + b"9" * 400, b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: gzip", b"Upgrade: websocket", b"Upgrade: h2c", b"Connection: upgrade",
    b"Connection: close", b"Connection: keep-alive, close", b"Expect: x", b" folded: x", b"no colon",
    b": empty name", b"X-\xff: y", b"X: \0", b"X: " + b"y" * 70_000, b"Cookie: a=b", b"Sec-WebSocket-Key: x",
    b"Sec-WebSocket-Version: 13", b"Authorization: Bearer x", b"Range: bytes=0-,-1",
)  # fmt: skip
STARTS = (
    b"GET http://evil.example/health HTTP/1.1", b"GET //health HTTP/1.1", b"GET /health HTTP/9.9", b"",
    b"PRI * HTTP/2.0", b"GET /%00%ff%2e%2e/ HTTP/1.1", b"GET /he\xe9 HTTP/1.1", b"CONNECT x:1 HTTP/1.1",
    b"\x16\x03\x01\x02",
)  # fmt: skip
CHUNKS = (
    b"0\r\n\r\n", b"-1\r\n", b"ffffffffffffffff\r\nx", b"3;x=y\r\nabc\r\n", b"3\nabc\n", b"g\r\n", b"1\r\nab\r\n",
)  # fmt: skip
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
REFUSALS = {b"400", b"403", b"404", b"405", b"408", b"413", b"415", b"417", b"431", b"499", b"503"}
NOTHING = "closed without a word"
PIECES = 3
AT_ONCE_S = 0.002  # between two pieces


class Wire(Kind):
    """Everything is sent and then the sending side closed, so an answer or the end comes at once."""

    name = "http"
    share = 3.0

    def make(self, chance: random.Random) -> bytes:
        made = chance.choice(HEADS)
        if chance.random() < 0.7:
            made = _with_lines(chance, made)
        if chance.random() < 0.2:
            made = chance.choice(STARTS) + b"\r\n" + made.partition(b"\r\n")[2]
        if chance.random() < 0.2:
            made += chance.choice(CHUNKS)
        if chance.random() < 0.5:
            made = changes.damaged(chance, made)
        if chance.random() < 0.2:
            made += chance.choice(HEADS)
        return made

    def give(self, process: Process, data: bytes) -> str:
        try:
            received = _exchanged(process.port, data)
        except TimeoutError:
            raise Hangs("a connection that was half closed") from None
        except ConnectionRefusedError as error:
            raise Gone(str(error)) from None
        statuses: list[bytes] = STATUS.findall(received)
        if not statuses:
            if received:
                raise Wrong(f"not HTTP: {received[:200]!r}")
            return NOTHING
        for status in statuses:
            if status not in REFUSALS and not status.startswith((b"1", b"2")):
                raise Wrong(f"status {status.decode()}: {received[-300:]!r}")
        return statuses[-1].decode()


def _with_lines(chance: random.Random, made: bytes) -> bytes:
    start, *lines = made.split(b"\r\n")
    end = lines.index(b"") if b"" in lines else len(lines)
    for _ in range(chance.randint(1, 3)):
        lines.insert(chance.randint(0, end), chance.choice(LINES))
    return b"\r\n".join([start, *lines])


def _exchanged(port: int, data: bytes) -> bytes:
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SILENT_S) as connection:
        with contextlib.suppress(OSError):  # it was refused before all was sent
            size = len(data) // PIECES + 1 if len(data) % 5 == 0 else len(data) + 1
            for begin in range(0, len(data), size):
                connection.sendall(data[begin : begin + size])
                if begin + size < len(data):
                    time.sleep(AT_ONCE_S)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while block := connection.recv(65536):
                received += block
    return received
