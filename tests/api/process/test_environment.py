"""What users set in the environment, read as the host reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.process.environment import (
    DEFAULT_CACHE_BYTES,
    cache_dir,
    cache_size,
    context_length,
    kv_type,
    memory,
    size,
    tensor_parallel,
    token,
    watchdog_s,
)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("", None),
        ("4096", 4096),
        (" '8192' ", 8192),
        ("2", 2),
        ("1", None),
        ("0", None),
        ("-1", None),
        ("4k", None),
    ],
)
def test_the_context_is_a_number_of_tokens_or_there_is_no_limit(value: str, length: int | None) -> None:
    assert context_length({"OLLAMA_CONTEXT_LENGTH": value}) == length
    assert context_length({}) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8G", 8 * 2**30),
        ("8GiB", 8 * 2**30),
        ("512mb", 2**29),
        ("1.5 T", 3 * 2**39),
        ("4096", 4096),
        ("2K", 2048),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, found: int) -> None:
    assert size(text) == found
    assert memory({"MLX_RUNNER_MEMORY": f" '{text}' "}) == found


@pytest.mark.parametrize("text", ["lots", "-1G", "0", "0.1", "8 X", "8Gi B", "80%", "1e9", "٣G"])
def test_what_is_no_size_is_named_and_not_passed_over(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 8G or 512M"):
        memory({"MLX_RUNNER_MEMORY": text})


def test_without_a_size_nothing_is_said() -> None:
    assert memory({}) is None


def test_the_cache_is_nowhere_unless_somebody_says_where() -> None:
    assert cache_dir({}) is cache_dir({"MLX_RUNNER_CACHE_DIR": " "}) is None
    assert cache_dir({"MLX_RUNNER_CACHE_DIR": "'/c'"}) == Path("/c")
    assert cache_size({}) == DEFAULT_CACHE_BYTES
    assert cache_size({"MLX_RUNNER_CACHE_SIZE": "2G"}) == 2 * 2**30
    with pytest.raises(ValueError, match="many: expected a size"):
        cache_size({"MLX_RUNNER_CACHE_SIZE": "many"})


@pytest.mark.parametrize(("value", "seconds"), [("", None), ("0", 0), (" '600' ", 600)])
def test_patience_is_a_number_of_seconds(value: str, seconds: int | None) -> None:
    assert watchdog_s({"MLX_RUNNER_WATCHDOG": value}) == seconds


@pytest.mark.parametrize("value", ["-1", "1.5", "10m", "٣", "1" * 10])
def test_patience_that_is_no_whole_number_of_seconds_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=f"{value}: expected seconds"):
        watchdog_s({"MLX_RUNNER_WATCHDOG": value})


@pytest.mark.parametrize(("value", "processes"), [("", 1), ("1", 1), (" '64' ", 64)])
def test_how_many_processes_have_the_model(value: str, processes: int) -> None:
    assert tensor_parallel({"MLX_RUNNER_TENSOR_PARALLEL": value}) == processes


@pytest.mark.parametrize("value", ["0", "65", "-1", "two", "٣"])
def test_a_number_of_processes_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=f"{value}: expected 1 to 64"):
        tensor_parallel({"MLX_RUNNER_TENSOR_PARALLEL": value})


def test_a_token_is_taken_as_it_is() -> None:
    assert token({}) is None
    assert token({"MLX_RUNNER_TOKEN": "a-B.9_~+/=="}) == b"a-B.9_~+/=="


@pytest.mark.parametrize("value", ["", " ", "a b", "a\n", '"a"', "\u00e9", "x" * 1001])
def test_a_token_that_cannot_be_shown_is_an_error_that_does_not_tell_it(value: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 1000 letters") as caught:
        token({"MLX_RUNNER_TOKEN": value})
    assert not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "found"),
    [("", "f16"), ("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"), (" 'Q8_0' ", "q8_0")],
)
def test_a_kv_type_is_read_as_hosts_read_it(value: str, found: str, caplog: pytest.LogCaptureFixture) -> None:
    assert kv_type({"OLLAMA_KV_CACHE_TYPE": value}) == found
    assert kv_type({}) == "f16"
    assert not caplog.records


def test_a_kv_type_that_is_unknown_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert kv_type({"OLLAMA_KV_CACHE_TYPE": "iq4_nl"}) == "f16"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "OLLAMA_KV_CACHE_TYPE is none of f16, q8_0, q4_0"
    assert record.__dict__["value"] == "iq4_nl"
