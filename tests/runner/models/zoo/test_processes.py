"""Architectures of mlx-lm in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.processes import hosted
from tests.parts.streams import PLAIN_TEXT, Answer, Request, ask
from tests.parts.zoo import greedy_tokens


@pytest.mark.parametrize(
    ("name", "repeated"),
    [
        ("Cohere2ForCausalLM", 33),  # its windows are full by then; the others with 33 have recurrent states
        ("Mamba2ForCausalLM", 33),
        ("NemotronHForCausalLM", 33),
        ("Phi3ForCausalLM", 36),
    ],
)
def test_a_process_says_what_mlx_lm_says(folders: dict[str, Path], name: str, repeated: int) -> None:
    """Also when the same prompt comes again, and when a prompt goes on behind an answer."""
    prompt, count = "How many roads must a man walk down?", 24

    def asked(port: int, prompt: str) -> Answer:
        with Request(port, ask(prompt, count, logit_bias=PLAIN_TEXT)) as request:
            return request.answer()

    with hosted(folders[name]) as running:
        first, again = asked(running.port, prompt), asked(running.port, prompt)
        further = asked(running.port, f"{prompt}{again.text} And how many seas?")
        assert f"architecture={name}" in running.output.text
    assert (first.cached, again.cached, further.cached) == (0, repeated, 37 + count - 1)
    for answer, text in (
        (first, prompt),
        (again, prompt),
        (further, f"{prompt}{again.text} And how many seas?"),
    ):
        ids = [tiny.BOS_ID, *tiny.tokenizer().encode(text).ids]
        spoken = [record["token"] for record in answer.records[:-1]]
        assert spoken == greedy_tokens(folders[name], ids, count, PLAIN_TEXT)
