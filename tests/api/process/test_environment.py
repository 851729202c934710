"""What users set in the environment, read as the host reads it."""

from __future__ import annotations

import pytest

from api.process.environment import context_length


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
