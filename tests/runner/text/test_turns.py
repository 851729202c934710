"""Where the last turn of a user begins, in the words of several templates."""

from __future__ import annotations

import pytest

from runner.text.turns import Turns
from tests.parts.fakes import tokenizer

CHATML = ("<|im_start|>", "<|im_end|>")
TEMPLATES = {
    "ChatML": (
        CHATML,
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n",
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n",
    ),
    "a tool's answer is no turn of the user": (
        CHATML,
        "<|im_start|>system\nnone<|im_end|>\n",
        "<|im_start|>user\nuser<|im_end|>\n<|im_start|>tool\n22<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Gemma": (
        ("<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>user\none<end_of_turn>\n<start_of_turn>model\ntwo<end_of_turn>\n",
        "<start_of_turn>user\nthree<end_of_turn>\n<start_of_turn>model\n",
    ),
    "gpt-oss": (
        ("<|start|>", "<|message|>", "<|end|>"),
        "<|start|>user<|message|>one<|end|><|start|>assistant<|message|>two<|end|>",
        "<|start|>user<|message|>three<|end|><|start|>assistant",
    ),
    "Command R": (
        ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>hello",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>one<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "Mistral": (("[INST]", "[/INST]"), "[INST]one[/INST]two", "[INST]three[/INST]"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_turn_of_a_user_begins_at_its_mark(name: str) -> None:
    special, before, last = TEMPLATES[name]
    coder = tokenizer(more=special)
    assert Turns(coder).start(coder.encode(before + last)) == len(coder.encode(before))


def test_marks_that_a_vocabulary_does_not_have_as_tokens_show_nothing() -> None:
    coder = tokenizer()
    assert Turns(coder).start(coder.encode("[INST]<|im_start|>user\n")) is None


def test_a_prompt_without_marks_has_no_turns() -> None:
    coder = tokenizer(more=CHATML)
    turns = Turns(coder)
    for text in ("user", "<|im_end|>user", "<|im_start|>", "<|im_start|>assistant user", "<|im_start|> user"):
        assert turns.start(coder.encode(text)) is None, text
    assert turns.start([]) is None
