"""What the demo model can do, measured: held-out perplexity and the skills, always with greedy decoding.

Knows nothing about training.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
from demo_corpus import chat, documents, split_of, sums, words
from demo_corpus.exchange import Exchange
from tokenizers import Tokenizer

from demo_train.model import Llama
from demo_train.vocabulary import BEGIN_ID, END_ID

HELD_OUT_SEED = 20_000
HELD_OUT_DOCUMENTS = 200
MAX_SCORED = 512
TOGETHER = 4  # rows of nearly one length: with 25 the 17,554 tokens were padded to 26,575, now to 18,572
ANSWER_LIMIT = 96
SKILLS = ("facts", "sums", "reading", "counting", "json", "words", "languages", "lists")
STORY_LIMIT = 640

Forward = Callable[[mx.array], mx.array]
"""Token ids [B,L] -> logits [B,L,V]."""


@dataclass(frozen=True)
class Perplexity:
    """The perplexity per token over the held-out documents, and what it was taken over."""

    value: float
    documents: int
    tokens: int


def number(array: mx.array) -> float:
    """The value of an array of one element."""
    return float(cast(float, array.item()))


def held_out_rows(tokenizer: Tokenizer, count: int = HELD_OUT_DOCUMENTS) -> list[list[int]]:
    """The token ids of the held-out documents, each with its first token, cut at MAX_SCORED."""
    source = documents("held-out", HELD_OUT_SEED)
    return [tokenizer.encode(next(source), add_special_tokens=False).ids[:MAX_SCORED] for _ in range(count)]


def perplexity(forward: Forward, tokenizer: Tokenizer, count: int = HELD_OUT_DOCUMENTS) -> Perplexity:
    """exp of the mean negative log-likelihood of every token but each document's first."""
    rows = sorted(held_out_rows(tokenizer, count), key=len)
    total, scored = 0.0, 0
    for at in range(0, len(rows), TOGETHER):
        some = rows[at : at + TOGETHER]
        longest = max(map(len, some))
        tokens = mx.array([row + [0] * (longest - len(row)) for row in some])  # causal: padding is never seen
        real = mx.array([[1.0] * (len(row) - 1) + [0.0] * (longest - len(row)) for row in some])
        logits = forward(tokens[:, :-1]).astype(mx.float32)
        chosen = mx.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        total += number(((mx.logsumexp(logits, axis=-1) - chosen) * real).sum())
        scored += sum(len(row) - 1 for row in some)
    return Perplexity(math.exp(total / scored), len(rows), scored)


def generate(model: Llama, tokenizer: Tokenizer, prompts: list[str], limit: int) -> list[tuple[str, bool]]:
    """The greedy continuation of each prompt, and whether it ended by itself."""
    by_length: dict[int, list[int]] = defaultdict(list)
    ids = [[BEGIN_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids] for prompt in prompts]
    for at, one in enumerate(ids):
        by_length[len(one)].append(at)  # equal lengths need no padding
    out: dict[int, tuple[str, bool]] = {}
    for same in by_length.values():
        cache = model.new_cache()
        tokens = mx.array([ids[at] for at in same])
        written: list[list[int]] = [[] for _ in same]
        ended = [False] * len(same)
        for _ in range(limit):
            chosen = mx.argmax(model(tokens, cache)[:, -1], axis=-1)
            values = chosen.tolist()
            for row, value in enumerate(cast(list[int], values)):
                if value == END_ID:
                    ended[row] = True
                elif not ended[row]:
                    written[row].append(value)
            if all(ended):
                break
            tokens = chosen[:, None]
        for place, at in enumerate(same):
            out[at] = (tokenizer.decode(written[place], skip_special_tokens=False), ended[place])
    return [out[at] for at in range(len(prompts))]


def _same_json(answer: str, wanted: Exchange) -> bool:
    """Whether the answer is JSON of the same form; the same values where the question fixes them."""
    try:
        got, reference = json.loads(answer), json.loads(wanted.answer)
    except ValueError:
        return False
    if wanted.key not in "{[":
        return bool(got == reference)
    if isinstance(reference, dict):
        return isinstance(got, dict) and list(got) == list(reference)
    return isinstance(got, list) and len(got) == len(reference)


def _same_count(answer: str, wanted: Exchange) -> bool:
    """Whether a list has as many different items as were asked for, written in the same way."""
    separator = "\n" if "\n" in wanted.answer else ", "
    items = answer.split(separator)
    return len(set(items)) == len(items) == len(wanted.answer.split(separator))


def _has_key(answer: str, wanted: Exchange) -> bool:
    if wanted.key.lstrip("-").isdigit():
        numbers = "".join(c if c.isdigit() or c == "-" else " " for c in answer.replace(" - ", " ")).split()
        return wanted.key in numbers[-1:] or wanted.key in numbers[:1]
    return wanted.key.lower() in answer.lower()


def _is_right(skill: str, answer: str, wanted: Exchange) -> bool:
    if skill == "json":
        return _same_json(answer, wanted)
    if skill == "lists":
        return _same_count(answer, wanted)
    if skill in ("counting", "words"):
        return answer == wanted.answer
    if skill.startswith("sums"):
        numbers = "".join(c if c.isdigit() or c == "-" else " " for c in answer.replace(" - ", " ")).split()
        return (wanted.key in numbers) if wanted.key.lstrip("-").isdigit() else _has_key(answer, wanted)
    return _has_key(answer, wanted)


def held_out_exchanges(skill: str, count: int) -> list[Exchange]:
    """Questions of a skill whose one-turn chat is held out."""
    rng = random.Random(f"{skill} {HELD_OUT_SEED}")
    found: list[Exchange] = []
    seen: set[str] = set()
    for _ in range(200_000):
        one = chat.SKILLS[skill](rng)
        if one.question not in seen and split_of(chat.render("", [(one.question, one.answer)])) == "held-out":
            seen.add(one.question)
            found.append(one)
            if len(found) == count:
                break
    return found


def new_sums(count: int) -> list[Exchange]:
    """Sums whose pair of numbers was never trained on, in any wording."""
    rng = random.Random(HELD_OUT_SEED)
    return [sums.sum_exchange(rng, held_out=True) for _ in range(count)]


def all_small_sums(top: int) -> list[Exchange]:
    """Every a + b and a - b up to `top`, as a person types them first."""
    plus = [Exchange(f"What is {a} + {b}?", "", str(a + b)) for a in range(top + 1) for b in range(top + 1)]
    minus = [Exchange(f"What is {a} - {b}?", "", str(a - b)) for a in range(top + 1) for b in range(a + 1)]
    return plus + minus


def remembered_names(count: int) -> list[tuple[str, str]]:
    """Prompts of two turns in which a name is told and asked for, and the name."""
    rng = random.Random(HELD_OUT_SEED)
    names = [rng.choice(words.GIRLS + words.BOYS) for _ in range(count)]
    return [
        (
            chat.render("", [(f"My name is {name}.", f"Nice to meet you, {name}!")], "")
            + chat.prompt("What is my name?"),
            name,
        )
        for name in names
    ]


def _score(results: Iterable[tuple[bool, bool]]) -> dict[str, float]:
    rows = list(results)
    right = sum(ok for ok, _ in rows) / len(rows)
    ended = sum(end for _, end in rows) / len(rows)
    return {"right": round(right, 4), "ended": round(ended, 4), "asked": len(rows)}


def skills(model: Llama, tokenizer: Tokenizer, count: int = 200) -> dict[str, dict[str, float]]:
    """For each skill the share of right answers, of answers that ended by themselves, and how many were asked."""
    asked = {name: held_out_exchanges(name, count) for name in SKILLS}
    asked["sums of unseen pairs"] = new_sums(count)
    asked["sums up to 20 + 20"] = all_small_sums(20)
    table = {}
    for name, exchanges in asked.items():
        answers = generate(
            model,
            tokenizer,
            [chat.prompt(one.question) for one in exchanges],
            300 if name == "counting" else ANSWER_LIMIT,
        )
        table[name] = _score(
            (_is_right(name, answer, one), ended)
            for (answer, ended), one in zip(answers, exchanges, strict=True)
        )
    names = remembered_names(count // 4)
    answers = generate(model, tokenizer, [prompt for prompt, _ in names], ANSWER_LIMIT)
    table["remembering a name"] = _score(
        (name in answer, ended) for (answer, ended), (_, name) in zip(answers, names, strict=True)
    )
    stories = [chat.prompt(one.question) for one in held_out_exchanges("stories", max(4, count // 8))]
    answers = generate(model, tokenizer, stories, STORY_LIMIT)
    table["stories"] = _score((ended and len(answer) > 200, ended) for answer, ended in answers)
    return table


SAMPLES = (
    "Hello!",
    "Who are you?",
    "Tell me a short story about a shy robot.",
    "What is 7 plus 5?",
    "48 + 37 =",
    "Mia has 12 apples and gives away 5. How many apples are left?",
    "Count down from 10.",
    "Give me a JSON record of a cat with name, age and color.",
    "Tom is 9 years old and lives in Rome. Write this as JSON.",
    "What is the capital of Japan?",
    "Why is the sky blue?",
    "List three fruits.",
    'Spell "lantern".',
    "Show me a cat emoji.",
    "How do you say thank you in Japanese?",
    "Write a poem about the moon.",
    "Who won the football game last year?",
)


def samples(model: Llama, tokenizer: Tokenizer, questions: Iterable[str] = SAMPLES) -> list[tuple[str, str]]:
    """The greedy answer to each question, and a story that goes on from its first words."""
    listed = list(questions)
    answers = generate(model, tokenizer, [chat.prompt(question) for question in listed], STORY_LIMIT)
    start = "Once upon a time, a little fox named Pip"
    (story, _), *_ = generate(model, tokenizer, [start], STORY_LIMIT)
    return [
        (start, story),
        *((question, answer) for question, (answer, _) in zip(listed, answers, strict=True)),
    ]
