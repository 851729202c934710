"""Bodies are read by Go's rules, and what they ask for arrives under plain names."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.wire.bodies import BadBody
from api.wire.schema import _said, read_completion, read_ids, read_load, well_formed
from runner.errors import BadRequest
from runner.types import GenerateRequest, SamplingOptions


def asked(body: Any) -> GenerateRequest:
    return read_completion(json.dumps(body).encode()).to_request()


def options(**values: Any) -> SamplingOptions:
    return asked({"Prompt": "p", "Options": values}).sampling


def test_the_first_hosts_body() -> None:
    request = asked({"prompt": "hi", "options": {"top_p": 0.9, "top_k": 40, "num_predict": 7}})
    assert request == GenerateRequest("hi", 7, SamplingOptions(top_p=0.9, top_k=40, seed=None))


def test_the_newest_hosts_body() -> None:
    request = asked(
        {
            "Prompt": "hi",
            "Media": None,
            "Format": None,
            "Options": {
                "num_ctx": 4096,
                "num_batch": 512,
                "num_gpu": -1,
                "num_keep": 4,
                "seed": -1,
                "num_predict": -1,
                "top_k": 40,
                "top_p": 0.9,
                "typical_p": 1,
                "repeat_last_n": 64,
                "temperature": 0.8,
                "repeat_penalty": 1,
            },
            "Logprobs": False,
            "TopLogprobs": 0,
        }
    )
    assert request.max_tokens is None
    assert request.sampling.seed is None
    assert request.sampling.temperature == 0.8
    assert request.sampling.typical_p == 1


def test_an_absent_seed_is_zero_for_hosts_that_know_seeds_and_none_for_those_that_do_not() -> None:
    assert asked({"Prompt": "p"}).sampling.seed == 0
    assert asked({"prompt": "p"}).sampling.seed is None
    assert asked({"prompt": "p", "options": {"seed": 5}}).sampling.seed == 5
    assert options(seed=-1).seed is None


def test_what_is_missing_is_zero() -> None:
    assert asked({"Prompt": "p"}) == GenerateRequest("p", None, SamplingOptions(seed=0))


def test_keys_match_in_any_case_and_the_last_one_wins() -> None:
    assert asked({"PROMPT": "a", "prompt": "b", "OPTIONS": {"Temperature": 1, "TOP_K": 3}}).prompt == "b"
    assert options(Temperature=1, TOP_K=3) == SamplingOptions(temperature=1, top_k=3, seed=0)


def test_null_leaves_the_zero_value() -> None:
    assert asked({"Prompt": "p", "Options": {"temperature": None, "stop": None}, "Logprobs": None}).stop == ()


def test_max_tokens_wins_over_num_predict() -> None:
    assert asked({"prompt": "p", "options": {"max_tokens": 3, "num_predict": 9}}).max_tokens == 3
    assert asked({"prompt": "p", "options": {"max_tokens": 0, "num_predict": 9}}).max_tokens == 9


@pytest.mark.parametrize("value", [-2, -1, 0])
def test_a_limit_below_one_means_until_the_context_is_full(value: int) -> None:
    assert asked({"prompt": "p", "options": {"num_predict": value}}).max_tokens is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"42",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b'{"options": {"temperature": Infinity}}',
        b'{"options": {"temperature": 1e999}}',
        b'{"options": {"temperature": "0.5"}}',
        b'{"options": {"temperature": true}}',
        b'{"options": {"top_k": 1.5}}',
        b'{"options": {"top_k": 12.0}}',
        b'{"options": {"top_k": true}}',
        b'{"options": {"top_k": "5"}}',
        b'{"options": {"seed": 18446744073709551616}}',
        b'{"options": {"seed": ' + b"9" * 5000 + b"}}",
        b'{"options": []}',
        b'{"options": {"stop": "END"}}',
        b'{"options": {"stop": [1]}}',
        b'{"prompt": 5}',
        b'{"Logprobs": 1}',
        b'{"Media": "x"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: data[:40].decode("latin-1"),
)
def test_what_go_would_refuse_is_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadBody, match=r"^Bad Request$"):
        read_completion(data)


def test_unknown_fields_are_ignored() -> None:
    assert asked({"prompt": "p", "model": "x", "options": {"mirostat": 2, "tfs_z": "?"}}).prompt == "p"


def test_no_format_has_two_spellings() -> None:
    assert asked({"Prompt": "p", "Format": None}) == asked({"Prompt": "p", "Format": ""})


def test_media_is_refused() -> None:
    with pytest.raises(BadRequest, match="does not support image input"):
        asked({"Prompt": "p", "Media": [{"data": "", "id": 0}]})


def test_limits_are_named_with_the_value() -> None:
    with pytest.raises(BadRequest, match="65 strings, limit 64"):
        asked({"prompt": "p", "options": {"stop": [str(i) for i in range(65)]}})
    with pytest.raises(BadRequest, match="1025 characters, limit 1024"):
        asked({"prompt": "p", "options": {"stop": ["x" * 1025]}})
    with pytest.raises(BadRequest, match="top_logprobs must be between 0 and 20, got 21"):
        asked({"prompt": "p", "TopLogprobs": 21})
    with pytest.raises(BadRequest, match="'x' is not a token id"):
        asked({"prompt": "p", "options": {"logit_bias": {"x": 1}}})


def test_logprobs_are_on_if_either_field_asks() -> None:
    assert asked({"prompt": "p", "TopLogprobs": 3}).logprobs
    assert asked({"prompt": "p", "Logprobs": True}).top_logprobs == 0


def test_an_option_without_effect_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        options(num_thread=3)
        options(num_thread=3)
    assert [record.__dict__["option"] for record in caplog.records] == ["num_thread"]


def test_a_clients_num_ctx_is_a_limit_and_a_hosts_is_none() -> None:
    assert asked({"prompt": "p", "options": {"num_ctx": 4096}}).context_length == 4096
    assert asked({"prompt": "p", "options": {"num_ctx": 0}}).context_length is None
    assert asked({"prompt": "p", "options": {"num_ctx": -1}}).context_length is None
    assert asked({"prompt": "p"}).context_length is None
    assert asked({"Prompt": "p", "Options": {"num_ctx": 4096}}).context_length is None


def test_nobody_can_say_that_he_is_a_host_but_by_its_spelling() -> None:
    body = {"prompt": "p", "options": {"num_ctx": 4096}, "hosted": True, "Hosted": True}
    assert asked(body).context_length == 4096


def test_progress_is_for_those_who_ask_and_read_a_stream() -> None:
    assert asked({"prompt": "p", "return_progress": True}).progress
    assert not asked({"prompt": "p", "return_progress": True, "stream": False}).progress
    assert not asked({"prompt": "p"}).progress
    assert not asked({"Prompt": "p", "Options": {}}).progress


def test_a_hosts_num_ctx_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _said.discard("num_ctx")
    with caplog.at_level(logging.INFO):
        asked({"prompt": "p", "options": {"num_ctx": 1}})
        asked({"Prompt": "p", "Options": {}})
        asked({"Prompt": "p", "Options": {"num_ctx": 4096}})
        asked({"Prompt": "p", "Options": {"num_ctx": 8192}})
    assert [(record.levelname, record.__dict__["num_ctx"]) for record in caplog.records] == [("INFO", 4096)]


def test_lone_surrogates_become_replacement_characters() -> None:
    assert read_completion(b'{"prompt": "a\\ud800b\\ud83d\\ude00"}').to_request().prompt == "a\ufffdb😀"


@given(st.text(st.characters()))
def test_well_formed_text_is_always_utf8_and_keeps_what_was_fine(text: str) -> None:
    repaired = well_formed(text)
    assert repaired.encode().decode() == repaired
    if not any(0xD800 <= ord(char) < 0xE000 for char in text):
        assert repaired == text


def test_ids_are_checked_against_the_vocabulary() -> None:
    assert read_ids(b"[1, 2]", 3) == [1, 2]
    with pytest.raises(BadRequest, match="token id 3 is outside the vocabulary of 3"):
        read_ids(b"[3]", 3)
    for data in (b"{}", b"[true]", b"[1.0]", b'["1"]', b"nope"):
        with pytest.raises(BadBody):
            read_ids(data, 3)


def test_a_load_body_may_be_empty() -> None:
    assert read_load(b"").model == ""
    assert read_load(b"{}").model == ""
    assert read_load(b'{"Model": "x"}').model == "x"
