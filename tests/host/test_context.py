"""A context limit inside a host: what its user sets holds, what it sends by itself with a request does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts.hosts import Host, Refused, serving

LIMIT = 64
BOS = 1
RAW = {"raw": True}


def test_the_context_that_a_user_sets_for_the_host_holds_in_the_runner(
    program: Path, store: Path, tmp_path: Path
) -> None:
    with serving(program, store, tmp_path, OLLAMA_CONTEXT_LENGTH=str(LIMIT)) as host:
        answer = host.generate("p" * 9, "endless", options={"num_predict": -1, "num_ctx": 4096}, **RAW)
        assert answer["done_reason"] == "length"
        assert answer["eval_count"] == LIMIT - 9 - BOS
        with pytest.raises(Refused) as refused:
            host.generate("p" * 99, "endless", **RAW)
        assert (
            f"({99 + BOS} tokens) exceeds the model's maximum context length ({LIMIT}" in refused.value.error
        )
        if host.is_since("v0.21.1"):
            assert refused.value.status == 400
            (shown,) = host.get("/api/ps")["models"]
            assert shown["context_length"] == LIMIT


def test_the_context_that_a_host_sends_along_decides_nothing(host: Host) -> None:
    answer = host.generate("p" * 99, "endless", options={"num_predict": 2, "num_ctx": 16}, **RAW)
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (99 + BOS, 2)
