"""What of foreign text goes into a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import MAX_MESSAGE, BadModelFiles, RunnerError, explain


@given(st.text(st.characters(exclude_categories=())))
def test_every_message_is_one_printable_line_that_can_be_sent(text: str) -> None:
    said = str(RunnerError(text))
    assert said.isprintable()
    said.encode()  # a lone surrogate would raise


@pytest.mark.parametrize("name", ["x" * 1_000_000, "x " * 500_000, "\ud800" * 1_000_000, "日" * 1_000_000])
def test_a_long_name_leaves_room_for_what_is_wrong_with_it(name: str) -> None:
    said = str(BadModelFiles(f"layer {name}: no such file"))
    assert len(said) <= MAX_MESSAGE
    assert said.startswith("layer ")
    assert said.endswith(": no such file")


def test_a_short_message_stays_as_it_is() -> None:
    assert str(RunnerError("a: 'b' is no size, expected é")) == "a: 'b' is no size, expected é"


def test_what_the_system_says_about_a_file_does_not_tell_where_it_lies() -> None:
    assert (
        explain(FileNotFoundError(2, "No such file or directory", "/home/me/x"))
        == "No such file or directory"
    )


def test_an_exception_without_words_is_named() -> None:
    assert explain(ValueError()) == "ValueError"


def test_hosts_know_memory_trouble_by_its_words() -> None:
    assert explain(RuntimeError("[malloc] Unable to allocate 9 bytes.")).startswith("out of memory: [malloc]")
