"""The demo model: what its folder promises, checked on the folder itself."""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.machine.blas import open_blas

open_blas()  # before MLX is imported; see runner/machine/blas.py

import mlx.core as mx  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runner/demo"
sys.path.insert(0, str(ROOT / "scripts"))  # the corpus and the training are scripts, not part of the package

from demo_corpus import chat, documents, split_of, sums  # noqa: E402
from demo_train import evaluate  # noqa: E402
from demo_train.data import Plan, make_block  # noqa: E402
from demo_train.model import Llama, parameter_count, read_model  # noqa: E402
from demo_train.vocabulary import CHAT_TEMPLATE, GO_TEMPLATE  # noqa: E402

TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def read(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return value


@pytest.fixture(scope="module")
def model() -> Llama:
    return read_model(FOLDER)


def test_the_folder_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000


def test_every_promised_file_is_there() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_config_names_a_llama_that_fits_its_tokenizer() -> None:
    config = read("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert 2_000 <= config["vocab_size"] == TOKENIZER.get_vocab_size() <= 8_192
    assert (
        TOKENIZER.token_to_id("<|begin|>")
        == config["bos_token_id"]
        == read("generation_config.json")["bos_token_id"]
    )
    assert (
        TOKENIZER.token_to_id("<|end|>")
        == config["eos_token_id"]
        == read("generation_config.json")["eos_token_id"]
    )


def test_weights_are_bfloat16_and_as_many_as_the_card_says(model: Llama) -> None:
    weights, metadata = mx.load(str(FOLDER / "model.safetensors"), return_metadata=True)
    assert isinstance(weights, dict)
    assert isinstance(metadata, dict)
    assert {value.dtype for value in weights.values()} == {mx.bfloat16}
    assert metadata["format"] in ("pt", "mlx")
    assert 3_000_000 <= parameter_count(model) == read("training.json")["parameters"] <= 6_000_000


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token_of_its_own() -> None:
    assert len(TOKENIZER.encode("1234567890", add_special_tokens=False).ids) == 10


def test_the_tokenizer_adds_nothing_by_itself() -> None:
    """The first token is the runner's job (add_bos_token), so that a template may write it too."""
    assert TOKENIZER.encode("a").ids == TOKENIZER.encode("a", add_special_tokens=False).ids
    assert read("tokenizer_config.json")["add_bos_token"] is True


def test_both_chat_templates_write_what_the_model_was_trained_on() -> None:
    turns = [("Hello!", "Hi!"), ("What is 2 + 2?", "4")]
    messages = [{"role": "system", "content": "Be brief."}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    template = jinja2.Template(read("tokenizer_config.json")["chat_template"])
    trained_on = chat.render("Be brief.", turns)
    assert template.render(messages=messages, bos_token="<|begin|>") == trained_on
    waiting = template.render(messages=messages[:2], bos_token="<|begin|>", add_generation_prompt=True)
    assert waiting == "<|begin|>" + chat.prompt("Hello!", "Be brief.")
    card = (FOLDER / "README.md").read_text()
    assert CHAT_TEMPLATE in card
    assert GO_TEMPLATE in card


@pytest.mark.slow
def test_held_out_perplexity_is_the_cards(model: Llama) -> None:
    measured = evaluate.perplexity(model, TOKENIZER)
    promised = read("training.json")["held_out"]
    assert measured.tokens == promised["tokens"]
    assert measured.value == pytest.approx(promised["perplexity"], rel=0.02)
    assert f"{promised['perplexity']:.4f} per token" in (FOLDER / "README.md").read_text()


def test_it_answers_small_sums_and_stops(model: Llama) -> None:
    asked = [(a, b) for a in range(0, 20, 3) for b in range(1, 20, 5)]
    prompts = [chat.prompt(f"What is {a} + {b}?") for a, b in asked]
    answers = evaluate.generate(model, TOKENIZER, prompts, 24)
    right = sum(
        ended and str(a + b) in answer.split() for (a, b), (answer, ended) in zip(asked, answers, strict=True)
    )
    assert right >= len(asked) - 1


def test_it_writes_json_a_story_and_an_emoji(model: Llama) -> None:
    questions = [
        "Give me a JSON record of a cat with name and age.",
        "Tell me a story about a fox.",
        "Show me a cat emoji.",
    ]
    answers = evaluate.generate(model, TOKENIZER, [chat.prompt(question) for question in questions], 500)
    assert all(ended for _, ended in answers)
    assert list(json.loads(answers[0][0])) == ["name", "age"]
    assert "fox" in answers[1][0]
    assert answers[2][0] == "🐱"


def test_the_corpus_is_a_function_of_its_seed() -> None:
    first, again, other = (list(itertools.islice(documents("train", seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_no_document_is_in_both_splits() -> None:
    train = set(itertools.islice(documents("train", 1), 2_000))
    held_out = set(itertools.islice(documents("held-out", 1), 200))
    assert not train & held_out
    assert {split_of(text) for text in train} == {"train"}
    assert {split_of(text) for text in held_out} == {"held-out"}


def test_held_out_sums_are_never_trained_on() -> None:
    rng = random.Random(5)
    for _ in range(2_000):
        a, sign, b, _ = sums.operands(rng)
        assert not sums.is_held_out(a, sign, b)


def test_blocks_of_tokens_depend_on_seed_and_number_only() -> None:
    plan = Plan(TOKENIZER.to_str(), 1, 64, 256, 64, 128, 0.25)
    assert (make_block(plan, 0) == make_block(plan, 0)).all()
    assert make_block(plan, 0).shape == (32, 4, 65)
    assert make_block(plan, 1).shape == (32, 2, 129)
