"""A context limit over HTTP: the status shows it, a longer prompt is refused, an answer ends there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parts.serving import Serving, serving
from tests.parts.streams import PLAIN_TEXT, ask

LIMIT = 40
BOS = 1  # a token before each prompt


@pytest.fixture(scope="module")
def limited(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model, context_length=LIMIT) as made:
        yield made


def until_full(prompt: str, **options: Any) -> dict[str, Any]:
    return ask(prompt, -1, logit_bias=PLAIN_TEXT, **options)


def context(served: Serving) -> int:
    length: int = served.http.get("/v1/status").json()["ContextLength"]
    return length


def test_the_status_shows_the_limit_where_the_model_has_more(limited: Serving) -> None:
    assert context(limited) == LIMIT


def test_another_model_has_the_same_limit_but_never_more_than_its_own(
    tiny_model: Path, other_model: Path
) -> None:
    with serving(tiny_model, context_length=450) as served:
        assert context(served) == 450
        served.worker.load(str(other_model)).result()
        assert context(served) == 400


def test_generation_ends_at_the_limit_with_length(limited: Serving) -> None:
    end = limited.answer(until_full("p" * 9)).terminal
    assert (end["EvalCount"], end["DoneReason"]) == (LIMIT - 9 - BOS, 1)


@pytest.mark.parametrize(
    ("num_ctx", "limit", "set_by"),
    [
        (0, LIMIT, "--context-length or OLLAMA_CONTEXT_LENGTH"),
        (20, 20, "num_ctx"),
        (100, LIMIT, "--context-length or OLLAMA_CONTEXT_LENGTH"),
    ],
)
def test_a_longer_prompt_is_refused_with_both_numbers(
    limited: Serving, num_ctx: int, limit: int, set_by: str
) -> None:
    fits = limited.answer(until_full("p" * (limit - 1 - BOS), num_ctx=num_ctx)).terminal
    assert (fits["EvalCount"], fits["DoneReason"]) == (1, 1)
    with limited.request(until_full("p" * 50, num_ctx=num_ctx)) as request:
        status, text = request.refusal()
    assert status == 400
    assert text == (
        f"input length ({50 + BOS} tokens) exceeds the model's maximum context length ({limit} tokens), "
        f"set by {set_by}"
    )


def test_a_hosts_default_num_ctx_decides_nothing(limited: Serving) -> None:
    body = {"Prompt": "p" * 9, "Options": {"num_ctx": 5, "num_predict": -1, "logit_bias": PLAIN_TEXT}}
    end = limited.answer(body).terminal
    assert (end["EvalCount"], end["DoneReason"]) == (LIMIT - 9 - BOS, 1)
