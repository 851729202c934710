"""Tokens in, safe text out: which logprobs come with which text, and in which words."""

from __future__ import annotations

from runner.text.output import Output
from runner.types import TokenLogprob
from tests.parts.fakes import tokenizer

CODER = tokenizer()


def fed(output: Output, text: str) -> list[tuple[str, list[float]]]:
    """What comes out, token by token; a token is a byte, and its logprob tells its place."""
    out = [output.feed(token, -float(place)) for place, token in enumerate(CODER.encode(text))]
    return [(text, [entry.logprob for entry in due]) for text, due in out]


def test_ids_become_the_pieces_of_text_that_they_are_alone() -> None:
    a, b, half = CODER.encode("a") + CODER.encode("b") + CODER.encode("é")[:1]
    text, due = Output(CODER, ()).feed(a, -0.5, ((a, -0.5), (b, -2.0), (half, -9999.0)))
    assert text == "a"
    assert due == (TokenLogprob("a", -0.5, (("a", -0.5), ("b", -2.0), ("\ufffd", -9999.0))),)


def test_without_logprobs_there_is_text_only() -> None:
    (a,) = CODER.encode("a")
    assert Output(CODER, ()).feed(a) == ("a", ())


def test_a_logprob_travels_with_the_first_text_of_its_token() -> None:
    """The bytes of a character wait for its last one, and so do their logprobs."""
    assert fed(Output(CODER, ()), "aé!") == [("a", [0.0]), ("", []), ("é", [-1.0, -2.0]), ("!", [-3.0])]


def test_what_waits_for_a_stop_string_comes_with_the_text_that_rules_it_out() -> None:
    output = Output(CODER, ("END",))
    assert fed(output, "xENy") == [("x", [0.0]), ("", []), ("", []), ("ENy", [-1.0, -2.0, -3.0])]


def test_tokens_behind_a_stop_string_are_dropped_with_their_logprobs() -> None:
    output = Output(CODER, ("END",))
    assert fed(output, "xEND") == [("x", [0.0]), ("", []), ("", []), ("", [])]
    assert output.stopped
    assert output.flush() == ("", ())


def test_the_flush_brings_the_logprobs_of_what_was_held_back() -> None:
    output = Output(CODER, ("END",))
    fed(output, "EN")
    text, due = output.flush()
    assert (text, [entry.logprob for entry in due]) == ("EN", [0.0, -1.0])
