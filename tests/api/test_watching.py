"""Looking at a runner from outside: its cache, its metrics, how far a prompt is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner.disk.folder import open_folder
from tests.parts.processes import wait_until
from tests.parts.serving import Serving, serving
from tests.parts.streams import DEADLINE_S, ask, endless

BOS = 1  # a token before each prompt


@pytest.fixture
def fresh(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model) as made:
        yield made


def cache(served: Serving, method: str = "GET") -> dict[str, Any]:
    answer = served.http.request(method, "/v1/cache")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    record: dict[str, Any] = answer.json()
    return record


def metrics(served: Serving) -> dict[str, float]:
    """By name; an end in brackets."""
    answer = served.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    ends = {f"[{sample.labels['end']}]": sample.value for sample in samples if "end" in sample.labels}
    return {sample.name.removeprefix("mlx_runner_"): sample.value for sample in samples} | ends


# The cache.


def test_the_cache_is_told_emptied_and_filled_again(fresh: Serving) -> None:
    assert cache(fresh) == {
        "tokens": 0,
        "bytes": 0,
        "hits": 0,
        "misses": 0,
        "slots": [{"busy": False, "tokens": 0, "bytes": 0}],
        "disk": None,
        "kv_type": "f16",
    }
    first = fresh.answer(ask("hello", 5))
    again = fresh.answer(ask("hello", 5))
    assert (first.cached, again.cached) == (0, len("hello"))
    full = cache(fresh)
    (slot,) = full["slots"]
    assert slot["tokens"] == full["tokens"] == BOS + len("hello") + 4
    assert slot["bytes"] == full["bytes"] > 0
    assert (full["hits"], full["misses"]) == (1, 1)
    before = fresh.http.get("/health").json()["Memory"]
    emptied = cache(fresh, "DELETE")
    assert emptied == {"emptied": 1, "tokens": full["tokens"], "bytes": full["bytes"], "busy": 0}
    assert cache(fresh)["bytes"] == cache(fresh)["tokens"] == 0
    assert fresh.http.get("/health").json()["Memory"] <= before - full["bytes"]
    assert cache(fresh, "DELETE") == {"emptied": 0, "tokens": 0, "bytes": 0, "busy": 0}
    anew = fresh.answer(ask("hello", 5))
    assert (anew.cached, anew.text) == (0, first.text)


def test_all_memory_of_a_company_comes_back(tiny_model: Path) -> None:
    with serving(tiny_model, parallel=3) as served:
        before = served.http.get("/health").json()["Memory"]
        requests = [served.request(ask(f"{number} is a number", 40)) for number in range(3)]
        for request in requests:
            with request:
                request.answer()
        assert cache(served)["bytes"] > 0
        assert cache(served, "DELETE")["emptied"] == 3
        assert served.http.get("/health").json()["Memory"] - before < 1000


def test_a_slot_that_a_request_has_is_not_emptied_and_its_answer_goes_on(slow_model: Path) -> None:
    with serving(slow_model, parallel=2) as served, served.request(endless()) as long:
        long.started().next_record()
        served.answer(ask("y", 3))
        emptied = cache(served, "DELETE")
        assert (emptied["emptied"], emptied["busy"]) == (1, 1)
        assert emptied["tokens"] == BOS + 3
        assert sorted(slot["busy"] for slot in cache(served)["slots"]) == [False, True]
        for _ in range(3):
            assert not long.next_record()["done"]


def test_what_the_disk_has_is_told_restored_and_emptied(tiny_model: Path, tmp_path: Path) -> None:
    """Saved soon after the last request, with nobody to wait for it."""
    prompt = "a prompt of more than sixty-four tokens, " * 3
    folder = open_folder(tmp_path / "cache", 2**30)

    def saved(served: Serving, entries: int) -> bool:
        return bool(cache(served)["disk"]["entries"] == entries)

    with serving(tiny_model, cache_folder=folder, rest_after_s=0.01) as served:
        nothing = {"entries": 0, "bytes": 0, "hits": 0}
        wait_until(lambda: cache(served)["disk"] == nothing, DEADLINE_S, "the end of the load")
        first = served.answer(ask(prompt, 5))
        wait_until(lambda: saved(served, 1), DEADLINE_S, "an entry")
    (file,) = folder.files()
    with serving(tiny_model, cache_folder=folder, rest_after_s=0.01) as served:
        again = served.answer(ask(prompt, 5))
        assert (again.cached, again.text) == (len(prompt), first.text)
        assert cache(served)["disk"] == {"entries": 1, "bytes": file.size, "hits": 1}
        cache(served, "DELETE")
        assert cache(served)["disk"] == {"entries": 0, "bytes": 0, "hits": 1}
        assert folder.files() == []


def test_a_wrong_method_on_the_cache_is_refused(fresh: Serving) -> None:
    assert fresh.http.post("/v1/cache").status_code == 405
    assert fresh.http.delete("/metrics").status_code == 405


# Metrics.


def test_metrics_count_what_was_asked_and_answered(fresh: Serving) -> None:
    ends = [fresh.answer(ask(prompt, 5)).terminal for prompt in ("hello", "hello", "help")]
    with fresh.request(ask("")) as request:
        assert request.refusal()[0] == 400
    found = metrics(fresh)
    assert (found["[length]"], found["[refused]"], found["[error]"]) == (3, 1, 0)
    assert found["prompt_tokens_total"] == sum(end["PromptEvalCount"] for end in ends)
    assert found["cached_tokens_total"] == sum(end["PromptEvalCachedCount"] for end in ends) > 0
    assert found["generated_tokens_total"] == 15
    assert (found["cache_hits_total"], found["cache_misses_total"]) == (2, 1)
    assert found["first_token_seconds_count"] == 3
    assert found["token_gap_seconds_count"] == 12
    assert found["prompt_seconds_total"] == pytest.approx(
        sum(end["PromptEvalDuration"] for end in ends) / 1e9
    )
    assert found["memory_bytes"] == fresh.http.get("/health").json()["Memory"]


def test_metrics_are_answered_while_requests_run_and_wait(slow_model: Path) -> None:
    with serving(slow_model) as served, served.request(endless()) as running:
        running.started().next_record()
        with served.request(ask("waits")) as waiting:
            wait_until(lambda: metrics(served)["queue_length"] == 1, DEADLINE_S, "a request that waits")
            assert metrics(served)["slots_busy"] == metrics(served)["slots"] == 1
            before = metrics(served)["generated_tokens_total"]
            wait_until(lambda: metrics(served)["generated_tokens_total"] > before, DEADLINE_S, "a token")
            waiting.leave()
            wait_until(lambda: metrics(served)["[cancelled]"] == 1, DEADLINE_S, "the end of who waited")
            assert metrics(served)["queue_length"] == 0
        running.leave()
        wait_until(lambda: metrics(served)["[cancelled]"] == 2, DEADLINE_S, "the end of who ran")


def test_metrics_and_cache_are_there_without_a_model() -> None:
    with serving(None) as served:
        assert metrics(served)["slots"] == 0
        assert cache(served)["slots"] == []
        assert cache(served, "DELETE")["emptied"] == 0
        assert served.http.head("/metrics").status_code == served.http.head("/v1/cache").status_code == 200


# Progress.


def test_who_asks_is_told_how_far_the_prompt_is(slow_model: Path) -> None:
    with serving(slow_model) as served:
        prompt = "tell me " * 200
        answer = served.answer(ask(prompt, 3) | {"return_progress": True})
        quiet = served.answer(ask(prompt, 3))
        whole = served.http.post(
            "/completion", json=ask(prompt, 3) | {"return_progress": True, "stream": False}
        )
    told = [record["prompt_progress"] for record in answer.records if "prompt_progress" in record]
    assert len(told) > 3
    assert {progress["total"] for progress in told} == {BOS + len(prompt)}
    assert {progress["cache"] for progress in told} == {0}
    processed = [progress["processed"] for progress in told]
    assert processed == sorted(set(processed))
    assert (processed[0], processed[-1]) == (0, BOS + len(prompt))
    assert [progress["time_ms"] for progress in told] == sorted(progress["time_ms"] for progress in told)
    assert all(record["content"] == "" for record in answer.records[: len(told)])
    assert not any("prompt_progress" in record for record in quiet.records)
    assert answer.text == quiet.text == whole.json()["content"]
