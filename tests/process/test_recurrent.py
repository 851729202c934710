"""Models whose layers carry a state, in a process of their own: turns, retries and edits are what they would be
without a cache, and most of them need not start anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cache.slots import TAIL
from tests.parts import tiny
from tests.parts.kinds import HYBRID
from tests.parts.processes import Running, hosted
from tests.parts.streams import PLAIN_TEXT, Answer, Request, ask

ARCHITECTURES = ["Qwen3NextForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForCausalLM"]
PROMPT = "Tell me about chunks, and about tails: " * 4


def answer(running: Running, prompt: str) -> Answer:
    with Request(running.port, ask(prompt, 12, logit_bias=PLAIN_TEXT)) as request:
        return request.answer()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_turn_says_what_a_fresh_process_says(tmp_path: Path, architecture: str) -> None:
    model = tiny.write(tmp_path / "model", architectures=[architecture], **HYBRID)
    with hosted(model) as running:
        first = answer(running, PROMPT)
        assert (first.cached, len(first.text)) == (0, 12)
        turn = f"{PROMPT}{first.text} Go on: "
        second = answer(running, turn)
        assert second.cached == len("B" + PROMPT + first.text) - 1, "all but the token that the limit left"
        retried = answer(running, turn)
        assert retried.cached == len("B" + turn) - TAIL
        rewritten = f"{turn[:-2]}. In short:"
        changed = answer(running, rewritten)
        assert changed.cached == len("B" + turn) - TAIL
        assert answer(running, "Something else").cached == 0
    with hosted(model) as fresh:
        assert answer(fresh, turn).text == second.text == retried.text
        assert answer(fresh, "Something else").cached == 0
        again = answer(fresh, rewritten)
        assert (again.cached, again.text) == (0, changed.text)
