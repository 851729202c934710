"""One answer over HTTP as a client sees it, in the runner's JSON lines or in mlx_lm.server's server-sent events.

Reading a record takes its time and keeps its bytes. What they say is parsed when all clients are done, so that a
client costs the server next to nothing of the processor that they share.

Knows nothing about other clients.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.samples import Bias

SILENT_S = 600.0  # a server that says nothing for so long has failed


@dataclass(frozen=True)
class Question:
    """leave_after: how many records are read before the client goes; None: all of them."""

    number: int
    text: str
    count: int
    bias: Bias
    leave_after: int | None = None


@dataclass(frozen=True)
class Raw:
    """What a client read, and when. trouble: why the answer is none."""

    question: Question
    sent_at: float
    lines: Sequence[tuple[float, bytes]]
    trouble: str = ""


@dataclass(frozen=True)
class Arrival:
    """A record. tokens: how many of the answer's had come with it."""

    at: float
    tokens: int
    text: str


@dataclass(frozen=True)
class Answer:
    """What a client read, understood. A failed one has a trouble; its arrivals are what came before that."""

    question: Question
    sent_at: float
    arrivals: Sequence[Arrival]
    trouble: str = ""

    @property
    def text(self) -> str:
        return "".join(arrival.text for arrival in self.arrivals)


Parsed = tuple[list[Arrival], str]
"""Arrivals, and what is wrong with them; a client that left knows nothing of the end."""


@dataclass(frozen=True)
class Dialect:
    """How a server is asked, what a line with a record begins with, and how the records are read."""

    path: str
    record: bytes
    body: Callable[[Question], dict[str, Any]]
    parse: Callable[[Sequence[tuple[float, bytes]]], Parsed]


def ask(connection: http.client.HTTPConnection, dialect: Dialect, question: Question) -> Raw:
    """Send a question, read the answer, or leave in its middle."""
    body = json.dumps(dialect.body(question))
    lines: list[tuple[float, bytes]] = []
    trouble = ""
    sent_at = time.perf_counter()
    try:
        connection.request("POST", dialect.path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            if response.status != 200:
                trouble = f"{response.status}: {response.read().decode(errors='replace').strip()}"
            while line := response.readline():
                if line.startswith(dialect.record):
                    lines.append((time.perf_counter(), line))
                if len(lines) == question.leave_after:
                    connection.close()
                    break
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        trouble = f"{type(error).__name__}: {error}"
    return Raw(question, sent_at, lines, trouble)


def understood(dialect: Dialect, raw: Raw) -> Answer:
    arrivals, trouble = dialect.parse(raw.lines)
    left = len(raw.lines) == raw.question.leave_after
    return Answer(raw.question, raw.sent_at, arrivals, raw.trouble or ("" if left else trouble))


def _runner_body(question: Question) -> dict[str, Any]:
    bias = {str(token): value for token, value in question.bias}
    options = {"num_predict": question.count, "logit_bias": bias}
    return {"prompt": question.text, "options": options, "includeIntermediateMetrics": True}


def _runner_parse(lines: Sequence[tuple[float, bytes]]) -> Parsed:
    """Every record counts the tokens so far."""
    arrivals: list[Arrival] = []
    for at, line in lines:
        record = json.loads(line)
        if "Error" in record:
            return arrivals, record["Error"]["error"]
        arrivals.append(Arrival(at, record["eval_count"], record["content"]))
        if record["done"]:
            return arrivals, ""
    return arrivals, "the answer has no end"


def _openai_body(question: Question) -> dict[str, Any]:
    return {
        "prompt": question.text,
        "max_tokens": question.count,
        "temperature": 0.0,
        "logit_bias": {str(token): value for token, value in question.bias},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _openai_parse(lines: Sequence[tuple[float, bytes]]) -> Parsed:
    """An event with text is a token, until the last event counts them. A token that ended no text made no event."""
    arrivals: list[Arrival] = []
    tokens = 0
    for at, line in lines:
        event = json.loads(line.removeprefix(OPENAI.record[:-1]))
        if not event["choices"]:
            counted: int = event["usage"]["completion_tokens"]
            return [*arrivals[:-1], replace(arrivals[-1], tokens=counted)], ""
        text: str = event["choices"][0]["text"]
        tokens += bool(text)
        arrivals.append(Arrival(at, tokens, text))
    return arrivals, "the answer has no end"


RUNNER = Dialect("/completion", b"{", _runner_body, _runner_parse)
OPENAI = Dialect("/v1/completions", b"data: {", _openai_body, _openai_parse)
