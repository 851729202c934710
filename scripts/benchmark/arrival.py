"""A long prompt arrives while others decode: what that costs them, and what they cost it.

In every round the prompt is asked alone first. Then rows begin to stream, and when all of them have done so for a
second another prompt of that length arrives; at its first token everybody leaves. No prompt is asked twice.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from benchmark import inside, models
from benchmark.answers import RUNNER, SILENT_S, Answer, Question, ask, understood
from benchmark.load_report import increments, ms, percentile, rate
from benchmark.samples import Trouble, median
from benchmark.servers import own_command, spawned

STREAM_S = 1.0  # before the prompt arrives
UNBOUNDED = 1_000_000  # tokens; a row goes on until its context is full
PHASES = ("without", "with")
SHARES = {"p50": 0.5, "p99": 0.99, "worst": 1.0}


@dataclass(frozen=True)
class Round:
    """What the clients saw. asked_at, first_at: when the prompt was sent, and when its first token came."""

    alone_s: float
    asked_at: float
    first_at: float
    rows: Sequence[Answer]

    @property
    def began_at(self) -> float:
        """When the last row had begun to stream."""
        return max(row.arrivals[0].at for row in self.rows)


class Row:
    """A client that reads an answer until it is told to leave."""

    def __init__(self, port: int, question: Question) -> None:
        self._port = port
        self._question = question
        self._sent_at = 0.0
        self._lines: list[tuple[float, bytes]] = []
        self._left = False
        self._leaves = threading.Event()
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)  # Ctrl-C need not wait for it
        self._thread.start()

    def leave(self) -> Answer:
        """What was read, with the next record, so that the pause which is under way counts."""
        self._leaves.set()
        self._thread.join()
        arrivals, trouble = RUNNER.parse(self._lines)
        if not self._left:
            raise Trouble(trouble or "a row's context was full too soon; a shorter prompt takes less time")
        return Answer(self._question, self._sent_at, arrivals)

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENT_S)
        try:
            self._sent_at = time.perf_counter()
            connection.request("POST", RUNNER.path, json.dumps(RUNNER.body(self._question)))
            with connection.getresponse() as response:
                while not self._left and (line := response.readline()):
                    self._left = self._leaves.is_set()
                    self._lines.append((time.perf_counter(), line))
                    self.begun.set()
        finally:
            self.begun.set()
            connection.close()


def measure(model: str, prompt_tokens: int, rounds: int, *, arrival: int, rows: int) -> dict[str, Any]:
    """The report that becomes the last line. prompt_tokens: of a row. arrival: of the prompt that comes late."""
    folder = models.folder_of(model)
    tokenizer = inside.tokenizer_of(str(folder))
    bias, numbers = models.endless(tokenizer), count()

    def question(tokens: int, generated: int) -> Question:
        number = next(numbers)
        return Question(number, models.make_prompt(tokenizer, number, tokens).text, generated, bias)

    found = []
    with spawned([*own_command(), "--parallel", str(rows + 1)], str(folder)) as server:
        _ask(server.port, question(prompt_tokens, 2))  # what the first request of a process costs
        for _ in range(rounds):
            alone, late = question(arrival, 1), question(arrival, 1)
            streaming = [question(prompt_tokens, UNBOUNDED) for _ in range(rows)]
            found.append(_round(server.port, alone, late, streaming))
    prompt = models.make_prompt(tokenizer, 0, prompt_tokens)
    generated = sum(row.arrivals[-1].tokens for one in found for row in one.rows)
    sizes = {"arrival_tokens": arrival, "rows": rows}
    return models.circumstances(model, folder, prompt, generated, rounds) | sizes | summary(found)


def _round(port: int, alone: Question, late: Question, streaming: Sequence[Question]) -> Round:
    first = _ask(port, alone)
    rows = [Row(port, question) for question in streaming]
    for row in rows:
        row.begun.wait()
    time.sleep(STREAM_S)
    answer = _ask(port, late)
    read = [row.leave() for row in rows]
    return Round(first.arrivals[0].at - first.sent_at, answer.sent_at, answer.arrivals[0].at, read)


def _ask(port: int, question: Question) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SILENT_S)
    answer = understood(RUNNER, ask(connection, RUNNER, question))
    connection.close()
    if answer.trouble:
        raise Trouble(f"the runner failed: {answer.trouble}")
    return answer


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """without: the rows before the prompt was sent, and the prompt alone. with: from then to its first token."""
    before = [
        later - earlier
        for one in rounds
        for earlier, later in _pauses(one.rows)
        if one.began_at <= earlier and later <= one.asked_at
    ]
    during = [
        later - earlier
        for one in rounds
        for earlier, later in _pauses(one.rows)
        if one.asked_at < later and earlier < one.first_at
    ]
    return {
        "gap_s": {
            phase: {name: percentile(gaps, share) for name, share in SHARES.items()}
            for phase, gaps in zip(PHASES, (before, during), strict=True)
        },
        "rows_tokens_per_s": {
            "without": median([rate(one.rows, one.began_at, one.asked_at) for one in rounds]),
            "with": median([rate(one.rows, one.asked_at, one.first_at) for one in rounds]),
        },
        "first_token_s": {
            "without": median([one.alone_s for one in rounds]),
            "with": median([one.first_at - one.asked_at for one in rounds]),
        },
    }


def _pauses(rows: Sequence[Answer]) -> Iterator[tuple[float, float]]:
    """From a record that brought tokens to the next one."""
    for row in rows:
        yield from pairwise(at for at, tokens in increments(row) if tokens)


def described(report: dict[str, Any]) -> str:
    """The sizes, in a line."""
    return (
        f"{report['rows']} rows with prompts of {report['prompt_tokens']} tokens;"
        f" {report['arrival_tokens']} tokens arrive; {report['rounds']} rounds"
    )


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    print(f"{'':24}{'gap, ms':>24}{'all rows,':>12}{'first token':>15}")
    print(f"{'the long prompt':24}{'p50':>8}{'p99':>8}{'worst':>8}{'tok/s':>12}{'of it, ms':>15}")
    for phase, name in zip(PHASES, ("is asked alone", "arrives in company"), strict=True):
        gaps = "".join(f"{ms(report['gap_s'][phase][share]):>8}" for share in SHARES)
        first_ms = ms(report["first_token_s"][phase])
        print(f"{name:24}{gaps}{report['rows_tokens_per_s'][phase]:12.1f}{first_ms:>15}")
