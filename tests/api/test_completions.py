"""Completions over a real socket: records, counters, answers in one piece, connections."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.parts.serving import SENTENCE, Serving
from tests.parts.streams import NEVER_END, PLAIN_TEXT, Answer, ask, read_stream, strict_json


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_a_completion_is_a_stream_of_records_under_both_names(probed: Serving, path: str) -> None:
    with probed.request(ask("hello", 12, logit_bias=PLAIN_TEXT), path) as request:
        answer = request.answer()
    assert len(answer.text) == 12
    assert answer.terminal["EvalCount"] == 12
    assert answer.terminal["DoneReason"] == 1
    assert answer.terminal["PromptEvalCount"] == 6  # BOS and five letters
    assert "prompt_eval_count" not in answer.records[0]


def test_records_arrive_one_by_one_and_not_at_the_end(probed: Serving) -> None:
    with probed.request(ask("hello", 400, logit_bias=PLAIN_TEXT)) as request:
        first = request.started().next_record()
        assert not first["done"]
        assert probed.http.get("/health").status_code == 200


def test_small_answers_on_a_kept_connection_are_not_held_back(probed: Serving) -> None:
    # Where the system waits to fill a packet, each takes the 40 ms until the other side acknowledges the last one.
    took = []
    for _ in range(20):
        asked = time.perf_counter()
        probed.http.get("/health")
        took.append(time.perf_counter() - asked)
    assert sorted(took)[5] < 0.02


def test_lines_with_twenty_alternatives_for_every_token_stay_short(probed: Serving) -> None:
    body = ask("hello", 100) | {"Logprobs": True, "TopLogprobs": 20}
    answer = probed.answer(body)
    entries = [entry for record in answer.records for entry in record.get("Logprobs", [])]
    assert len(entries) == answer.terminal["EvalCount"] == 100
    assert all(len(entry["top_logprobs"]) == 20 for entry in entries)
    assert all(-9999.0 <= entry["logprob"] <= 0.0 for entry in entries)


def test_a_long_text_held_back_for_a_stop_string_comes_in_short_lines(probed: Serving) -> None:
    # The first characters of the stop string match nothing, so the matcher must let go of what it held.
    stop = "~" * 1024
    answer = probed.answer(ask("x", 300, logit_bias=PLAIN_TEXT, stop=[stop]))
    assert len(answer.text) == 300


def test_counters_on_every_record_when_they_are_asked_for(probed: Serving) -> None:
    body = ask("hello", 5, logit_bias=PLAIN_TEXT) | {"IncludeIntermediateMetrics": True}
    counts = [record["EvalCount"] for record in probed.answer(body).records]
    assert counts == [1, 2, 3, 4, 5, 5]


def test_old_and_new_hosts_bodies_ask_for_the_same(probed: Serving) -> None:
    old = {"prompt": SENTENCE, "options": {"num_predict": 8, "logit_bias": NEVER_END}}
    new = {
        "Prompt": SENTENCE,
        "Media": None,
        "Format": None,
        "Options": {"num_predict": 8, "seed": -1, "num_keep": 4, "num_batch": 512, "logit_bias": NEVER_END},
        "Logprobs": False,
        "TopLogprobs": 0,
        "IncludeIntermediateMetrics": False,
    }
    assert probed.answer(old).text == probed.answer(new).text


def test_an_answer_in_one_piece_says_what_the_stream_says(probed: Serving) -> None:
    body = ask("hello", 9, logit_bias=PLAIN_TEXT) | {"logprobs": True}
    streamed = probed.answer(body)
    whole = probed.http.post("/completion", json=body | {"stream": False})
    assert whole.headers["content-type"] == "application/json"
    record = strict_json(whole.content)
    assert record["done"] is True
    assert record["content"] == streamed.text
    assert record["EvalCount"] == 9
    assert len(record["Logprobs"]) == 9


def test_an_answer_in_one_piece_may_be_an_error(probed: Serving) -> None:
    refused = probed.http.post("/completion", json={"prompt": "", "stream": False})
    assert (refused.status_code, refused.text) == (400, "empty prompt\n")


def test_answers_do_not_depend_on_who_else_asks(probed: Serving) -> None:
    prompts = [f"request number {i}, " * (i % 4 + 1) for i in range(12)]
    alone = [probed.answer(ask(prompt, 20)).text for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together: list[Answer] = list(pool.map(lambda prompt: probed.answer(ask(prompt, 20)), prompts))
    assert [answer.text for answer in together] == alone


def test_connections_are_kept_for_the_next_request(probed: Serving) -> None:
    client = httpx.Client(base_url=probed.http.base_url)
    with client:
        for _ in range(3):
            answer = client.post("/completion", json=ask("hello"))
            read_stream(answer.content)
            assert "connection" not in answer.headers


def test_the_longest_prompt_that_fits_gets_one_token(probed: Serving) -> None:
    answer = probed.answer(ask("x" * 510, 50))
    assert answer.terminal["EvalCount"] == 1
    assert answer.terminal["DoneReason"] == 1
