"""The load of scripts/bench.py: figures of answers whose times are known, and how records are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmark.answers import OPENAI, RUNNER, Answer, Arrival, Dialect, Question, Raw, understood
from benchmark.load_report import percentile, summary


def question(number: int = 0, leave_after: int | None = None) -> Question:
    return Question(number, "a prompt", 8, (), leave_after)


def answer(number: int, sent_at: float, *arrivals: tuple[float, int], left: bool = False) -> Answer:
    """arrivals: when, and how many tokens there were then; each record says "a"."""
    asked = question(number, len(arrivals) if left else None)
    return Answer(asked, sent_at, [Arrival(at, tokens, "a") for at, tokens in arrivals])


def test_busy_ends_with_the_client_that_is_done_first() -> None:
    first = [answer(0, 0.0, (1.0, 1), (2.0, 3))]
    second = [answer(1, 0.0, (1.5, 1), (2.0, 2)), answer(2, 2.0, (4.0, 4))]
    found = summary([first, second], {})
    assert found["tokens_per_s"] == (3 + 2) / 2
    assert found["tokens_per_s_whole"] == (3 + 2 + 4) / 4
    assert found["tokens"] == 9


def test_gaps_lie_within_an_answer_and_end_where_tokens_come() -> None:
    found = summary(
        [[answer(0, 0.0, (1.0, 1), (1.5, 2), (4.0, 2), (4.5, 3)), answer(1, 10.0, (12.0, 1))]], {}
    )
    assert found["gap_s"] == {"p50": 0.5, "p99": 3.0, "worst": 3.0}
    assert found["first_token_s"] == {"p50": 1.0, "p99": 2.0}


def test_an_answer_differs_from_the_one_alone_unless_its_client_left() -> None:
    alone = {0: "aa", 1: "aab", 2: "aab", 3: "b"}
    answers = [
        answer(0, 0.0, (1.0, 1), (2.0, 2)),
        answer(1, 0.0, (1.0, 1), (2.0, 2)),
        answer(2, 0.0, (1.0, 1), (2.0, 2), left=True),
        answer(3, 0.0, (1.0, 1), left=True),
        answer(4, 0.0, (1.0, 1)),
    ]
    found = summary([answers], alone)
    assert (found["compared"], found["differ"], found["left"]) == (4, 2, 2)


def test_a_client_without_any_answer_leaves_no_busy_time() -> None:
    failed = Answer(question(1), 0.0, [], "503: server busy")
    found = summary([[answer(0, 0.0, (1.0, 1))], [failed]], {0: "a", 1: "a"})
    assert found["tokens_per_s"] == 0
    assert (found["failed"], found["why"], found["compared"]) == (1, "503: server busy", 1)
    assert found["gap_s"]["p50"] is None


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_so_many_do_not_pass(values: list[int], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def ours(tokens: int, *, done: bool = False) -> bytes:
    return json.dumps({"content": "b", "done": done, "eval_count": tokens}).encode()


def theirs(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode()


COUNTED = b"data: " + json.dumps({"choices": [], "usage": {"completion_tokens": 5}}).encode()


def read(dialect: Dialect, lines: Sequence[bytes], leave_after: int | None = None) -> Answer:
    timed = [(float(at), line) for at, line in enumerate(lines)]
    return understood(dialect, Raw(question(leave_after=leave_after), 0.0, timed))


def test_tokens_are_counted_by_the_records_of_the_runner() -> None:
    found = read(RUNNER, [ours(1), ours(4), ours(5, done=True)])
    assert [arrival.tokens for arrival in found.arrivals] == [1, 4, 5]
    assert (found.text, found.trouble) == ("bbb", "")


def test_events_with_text_are_tokens_until_the_last_event_counts_them() -> None:
    found = read(OPENAI, [theirs("a"), theirs("b"), theirs(""), COUNTED])
    assert [arrival.tokens for arrival in found.arrivals] == [1, 2, 5]
    assert (found.text, found.trouble) == ("ab", "")


def test_an_event_without_text_is_no_token_to_a_client_that_left() -> None:
    found = read(OPENAI, [theirs("a"), theirs(""), theirs("b")], leave_after=3)
    assert [arrival.tokens for arrival in found.arrivals] == [1, 1, 2]


@pytest.mark.parametrize(("dialect", "line"), [(RUNNER, ours(1)), (OPENAI, theirs("a"))])
def test_an_answer_without_an_end_has_failed_unless_its_client_left(dialect: Dialect, line: bytes) -> None:
    assert read(dialect, [line, line]).trouble == "the answer has no end"
    assert read(dialect, [line, line], leave_after=2).trouble == ""


def test_an_error_in_mid_stream_is_told() -> None:
    error: dict[str, Any] = {"content": "", "done": True, "Error": {"error": "out of memory"}}
    assert read(RUNNER, [ours(1), json.dumps(error).encode()]).trouble == "out of memory"
