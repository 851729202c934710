"""The demo model says, token by token, what mlx-lm makes of the same files."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.generation.alone import complete
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.store.resolve import DEMO, DEMO_FOLDER, open_model
from runner.types import Done, GenerateRequest
from tests.parts.fakes import text_of

TOKENS = 40
STARTS = (
    "Once upon a time", "One day, a little fox", "It was raining", "In a village by the sea", "Mia had a red boat",
    "The old clock", "Long ago, in a deep forest,", "Tom and his sister", "A small dragon", "Every morning",
)  # fmt: skip
QUESTIONS = (
    "Hello!", "Who are you?", "What is 7 plus 5?", "12 + 30 =", "What is 9 minus 4?", "What is 6 times 7?",
    "Count from 1 to 10.", "Count down from 5.", "Count by twos from 2 to 20.", "What colour is the sky?",
    "What does a cow say?", "What is the opposite of hot?", "What is the capital of France?",
    "Give me a JSON record of a cat.", "Give me a JSON record of a book.", "Spell the word house.",
    "Tell me a story.", "Tell me a story about a bear.", "What comes after Monday?", "How many legs has a spider?",
    "Show me a cat emoji.", "Name three fruits.", "Thank you!", "What is a spoon for?", "Say hello in French.",
    "What month comes before June?", "Repeat: the moon is bright.", "Write the word apple in capitals.",
    "What is 45 + 38?", "100 - 1 =", "Is ice cold?", "Where do fish live?", "Good night!", "What can you do?",
    "List the seasons.", "What do bees make?", "What is a baby dog called?", "Do you like music?",
    "What is half of ten?", "My name is Anna. What is my name?",
)  # fmt: skip
PROMPTS = STARTS + tuple(f"<|user|>{question}<|end|><|assistant|>" for question in QUESTIONS)


@pytest.fixture(scope="module")
def ours() -> LoadedModel:
    return load(open_model(DEMO), lambda share: None)


@pytest.fixture(scope="module")
def reference() -> Any:
    """mlx-lm's model of the same files, in float32 as ours is on a CPU."""
    from mlx_lm.utils import load_model

    model, _ = load_model(DEMO_FOLDER)
    model.set_dtype(mx.float32)
    return model


def reference_tokens(model: Any, prompt: list[int], eos: frozenset[int]) -> list[int]:
    """What follows the prompt, the end-of-sequence token included."""
    from mlx_lm.generate import generate_step

    tokens: list[int] = []
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=TOKENS):
        tokens.append(int(token))
        if tokens[-1] in eos:
            break
    return tokens


def our_answer(loaded: LoadedModel, prompt: str) -> tuple[str, Done]:
    events = complete(loaded, GenerateRequest(prompt, TOKENS))
    assert isinstance(events[-1], Done)
    return text_of(events), events[-1]


def test_there_are_fifty_prompts() -> None:
    assert len(set(PROMPTS)) == 50


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_mlx_lms(ours: LoadedModel, reference: Any, prompt: str) -> None:
    """The prefix cache stays warm from one prompt to the next on our side, on theirs each starts fresh."""
    ids = ours.tokenizer.encode(prompt)
    expected = reference_tokens(reference, ids, ours.tokenizer.eos_ids)
    text, done = our_answer(ours, prompt)
    # The cache holds every token that was forwarded, and the one at the limit never is.
    assert ours.slots.tokens(0)[len(ids) :] == expected[: TOKENS - 1]
    spoken = [token for token in expected if token not in ours.tokenizer.eos_ids]
    assert text == ours.tokenizer.decode(spoken)
    assert done.usage.generated_tokens == len(spoken)
