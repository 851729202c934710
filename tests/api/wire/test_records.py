"""Every line is one that every generation of host can read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.wire.records import Records, counters, status_record
from runner.types import Chunk, Done, Event, Failed, Progress, Status, TokenLogprob, Usage

USAGE = Usage(
    prompt_tokens=7, cached_tokens=3, prompt_ns=1_500_000, generated_tokens=5, generate_ns=2_000_000
)


def records(event: Event, metrics: bool = False) -> list[dict[str, Any]]:
    lines = list(Records(metrics).lines(event))
    for line in lines:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert len(line) < 65_536
    return [json.loads(line) for line in lines]


def test_a_chunk_has_text_and_the_seeds_own_token() -> None:
    assert records(Chunk("hi", 42, USAGE)) == [{"content": "hi", "done": False, "token": 42}]


def test_progress_has_no_text_and_the_names_that_clients_know() -> None:
    (record,) = records(Progress(237, 230, 235, 181_999_999), metrics=True)
    prompt = {"total": 237, "cache": 230, "processed": 235, "time_ms": 181}
    assert record == {"content": "", "done": False, "prompt_progress": prompt}


def test_counters_travel_on_chunks_only_where_asked_for() -> None:
    (record,) = records(Chunk("hi", 42, USAGE), metrics=True)
    assert record["PromptEvalCount"] == 7
    assert record["EvalCount"] == 5
    assert record["PromptEvalCachedCount"] == 3


def test_the_final_record_has_both_spellings_and_whole_nanoseconds() -> None:
    (record,) = records(Done("length", USAGE))
    assert record["content"] == ""
    assert record["done"] is True
    assert record["done_reason"] == record["DoneReason"] == 1
    assert record["prompt_eval_count"] == record["PromptEvalCount"] == 7
    assert record["prompt_eval_duration"] == record["PromptEvalDuration"] == 1_500_000
    assert record["eval_count"] == record["EvalCount"] == 5
    assert record["eval_duration"] == record["EvalDuration"] == 2_000_000
    assert record["PromptEvalCachedCount"] == 3
    assert record["total_tokens"] == 12
    assert all(type(value) is int for key, value in record.items() if key not in ("content", "done"))


def test_a_failure_is_an_object_under_error_and_ends_the_stream_for_old_hosts_too() -> None:
    (record,) = records(Failed("it broke", 503))
    assert record["Error"] == {"StatusCode": 503, "Status": "", "error": "it broke"}
    assert record["done"] is True


def test_logprobs_have_the_hosts_shape() -> None:
    entry = TokenLogprob("a", -0.5, (("a", -0.5), ("b", -2.0)))
    (record,) = records(Chunk("a", 1, USAGE, (entry, TokenLogprob("b", -9999.0))))
    assert record["Logprobs"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -2.0}],
        },
        {"token": "b", "logprob": -9999.0},
    ]


@given(st.text(max_size=30), st.integers(1, 4000))
def test_any_text_arrives_whole_in_lines_short_enough(piece: str, times: int) -> None:
    text = piece * times
    assert "".join(record["content"] for record in records(Chunk(text, 1, USAGE))) == text


counts = st.integers(0, 2**63)
usages = st.builds(Usage, counts, counts, counts, counts, counts)


@given(st.builds(Chunk, st.text(max_size=30), counts, usages, st.just(())), st.booleans())
def test_the_form_of_a_plain_chunk_is_what_an_encoder_makes_of_its_record(
    chunk: Chunk, metrics: bool
) -> None:
    record = {"content": chunk.text, "done": False, "token": chunk.token}
    record |= counters(chunk.usage) if metrics else {}
    line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
    assert Records(metrics).encoded([chunk]) == line.encode()


def test_many_logprobs_are_spread_over_records_and_none_is_lost() -> None:
    entries = tuple(TokenLogprob("\x00" * 40, -1.0, (("\x00" * 60, -1.0),) * 20) for _ in range(60))
    found = records(Chunk("text", 1, USAGE, entries))
    assert sum(len(record.get("Logprobs", [])) for record in found) == 60
    assert "".join(record["content"] for record in found) == "text"


def test_one_object_holds_everything_for_a_client_without_a_stream() -> None:
    whole = Records(False).whole("all of it", [TokenLogprob("a", -1.0)], Done("stop", USAGE))
    assert whole["content"] == "all of it"
    assert whole["Logprobs"] == [{"token": "a", "logprob": -1.0}]
    assert whole["done_reason"] == 0


def test_numbers_that_json_lacks_are_refused_rather_than_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        records(Chunk("a", 1, USAGE, (TokenLogprob("a", float("-inf")),)))


def test_status_has_the_hosts_keys() -> None:
    record = status_record(
        Status(ready=True, model="m", progress=100, context_length=512, memory=99, kv_type="q8_0")
    )
    assert record == {
        "status": 0,
        "progress": 100,
        "ContextLength": 512,
        "Memory": 99,
        "model": "m",
        "slots": [],
        "kv_type": "q8_0",
    }
