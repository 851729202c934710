"""A client with a socket of its own, and the checker that every answer it reads must pass."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from tests.parts.tiny import EOS_ID

DEADLINE_S = 120.0  # for one read; a hint to fail by, not a measure
HOST_LINE_LIMIT = 65_535  # bytes with the newline; a host's scanner gives up there
COUNTERS = {
    "PromptEvalCount": "prompt_eval_count",
    "PromptEvalDuration": "prompt_eval_duration",
    "EvalCount": "eval_count",
    "EvalDuration": "eval_duration",
}

# Random weights end a text at any moment and speak bytes that are no characters; these options forbid both.
NEVER_END = {str(EOS_ID): -1e4}
PLAIN_TEXT = {str(i): -1e4 for i in range(94, 300)}


@dataclass(frozen=True)
class Answer:
    """A complete, well-formed stream."""

    records: list[dict[str, Any]]
    terminal: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(record["content"] for record in self.records)

    @property
    def cached(self) -> int:
        count: int = self.terminal["PromptEvalCachedCount"]
        return count

    @property
    def error(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.terminal.get("Error")
        return found


def read_stream(body: bytes) -> Answer:
    """The records of a whole body, each checked as the strictest host would; exactly one terminal, at the end."""
    assert body.endswith(b"\n"), f"the stream breaks off: {body[-200:]!r}"
    records = []
    for line in body[:-1].split(b"\n"):
        assert len(line) + 1 < HOST_LINE_LIMIT, f"a line of {len(line) + 1} bytes"
        record = strict_json(line)
        _check_record(record)
        records.append(record)
    ends = [index for index, record in enumerate(records) if record["done"]]
    assert ends == [len(records) - 1], f"{len(records)} records, terminal ones at {ends}"
    return Answer(records, records[-1])


def strict_json(text: bytes) -> Any:
    """UTF-8 JSON with neither NaN nor infinities."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text.decode(), parse_constant=refuse)


def _check_record(record: dict[str, Any]) -> None:
    assert isinstance(record, dict)
    assert isinstance(record["content"], str)
    assert isinstance(record["done"], bool)
    record["content"].encode()  # a lone surrogate would raise
    for camel, snake in COUNTERS.items():
        assert (camel in record) == (snake in record)
        if camel in record:
            assert type(record[camel]) is int, (camel, record[camel])
            assert record[camel] == record[snake] >= 0, (camel, record[camel])
    assert isinstance(record.get("Logprobs", []), list)
    if not record["done"]:
        assert "Error" not in record
        return
    assert record["done_reason"] == record["DoneReason"]
    if "Error" in record:
        error = record["Error"]
        assert set(error) == {"StatusCode", "Status", "error"}
        assert type(error["StatusCode"]) is int
        assert error["error"]
    else:
        assert record["done_reason"] in (0, 1)
        assert COUNTERS.keys() <= record.keys()
        assert 0 <= record["PromptEvalCachedCount"] < record["PromptEvalCount"]


class Request:
    """One POST /completion under way. Sent by the constructor; nothing is read before it is asked for."""

    def __init__(self, port: int, body: dict[str, Any] | bytes, path: str = "/completion") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        self.socket: socket.socket = self._connection.sock
        self.sent = time.perf_counter()
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> Request:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self.leave()

    @property
    def response(self) -> http.client.HTTPResponse:
        """Waits for status and headers."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def started(self) -> Request:
        """Waits until the runner has taken the request up."""
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "application/jsonl"
        return self

    def next_record(self) -> dict[str, Any]:
        """Waits for one line."""
        record: dict[str, Any] = strict_json(self.response.readline())
        return record

    def answer(self) -> Answer:
        """Waits for the whole stream."""
        return read_stream(self.started().response.read())

    def refusal(self) -> tuple[int, str]:
        """Status and text of an answer that is not a stream."""
        assert self.response.status != 200, self.response.read()
        return self.response.status, plain(self.response.headers["Content-Type"], self.response.read())

    def leave(self) -> float:
        """Close the connection (FIN); when, on the performance counter."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        return self._close()

    def reset(self) -> float:
        """Close it with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return self._close()

    def half_close(self) -> float:
        """Say that nothing more will be sent, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)
        return time.perf_counter()

    def _close(self) -> float:
        if self._response is not None:
            self._response.close()
        self._connection.close()
        return time.perf_counter()


@contextlib.contextmanager
def sleeping_reader(port: int, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A client with small buffers that sends a request and then reads nothing."""
    data = json.dumps(body).encode()
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", port))
        reader.sendall(head + data)
        yield reader


def plain(content_type: str, body: bytes) -> str:
    """The text of an error as hosts show it: one line, nothing but text."""
    assert content_type == "text/plain; charset=utf-8", content_type
    text = body.decode()
    assert len(body) < 1024
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text[:-1]


def ask(prompt: str, tokens: int = 8, **options: Any) -> dict[str, Any]:
    """A greedy request that ends at its limit only."""
    bias = options.pop("logit_bias", NEVER_END)
    return {"prompt": prompt, "options": {"num_predict": tokens, "logit_bias": bias, **options}}


def endless(prompt: str = "x") -> dict[str, Any]:
    """A text of thousands of tokens: half a minute that nobody will wait for."""
    return ask(prompt, 8000, logit_bias=PLAIN_TEXT)


def post(port: int, path: str, body: str | bytes) -> tuple[int, bytes]:
    """Status and body; status 0 if the connection was closed without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
