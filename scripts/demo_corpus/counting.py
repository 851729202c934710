"""Counting up, down and in steps. Knows nothing about chats."""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick

STEPS = {2: "twos", 3: "threes", 5: "fives", 10: "tens"}


def exchange(rng: random.Random) -> Exchange:
    """A request to count, and the numbers."""
    kind = rng.random()
    if kind < 0.3:
        last = rng.choice((rng.randint(2, 12), rng.randint(2, 30), rng.choice((10, 20, 50, 100))))
        question = pick(
            rng,
            f"Count to {last}.",
            f"Count from 1 to {last}.",
            f"Can you count to {last}?",
            f"Please count from one to {words.number_word(last)}.",
            f"Count up to {last}.",
            f"Count to {words.number_word(last)}.",
        )
        numbers = range(1, last + 1)
    elif kind < 0.5:
        first = rng.randint(0, 90)
        last = first + rng.randint(2, 15)
        question = pick(
            rng,
            f"Count from {first} to {last}.",
            f"Please count from {first} to {last}.",
            f"Write the numbers from {first} to {last}.",
        )
        numbers = range(first, last + 1)
    elif kind < 0.7:
        first = rng.choice((rng.randint(3, 12), rng.randint(3, 30), 10, 10))
        last = rng.choice((0, 1))
        question = pick(
            rng,
            f"Count down from {first}.",
            f"Count backwards from {first}.",
            f"Count backward from {first}.",
            f"Can you count down from {first}?",
        )
        question = f"{question[:-1]} to {last}{question[-1]}"
        if last == 1 and rng.random() < 0.5:
            question = question.replace(" to 1", "")
        numbers = range(first, last - 1, -1)
    elif kind < 0.9:
        step = rng.choice(list(STEPS))
        first = rng.choice((0, step, rng.randint(0, 20)))
        last = first + step * rng.randint(3, 10)
        name = STEPS[step]
        question = pick(
            rng,
            f"Count by {name} from {first} to {last}.",
            f"Count from {first} to {last} by {name}.",
            f"Count from {first} to {last} in steps of {step}.",
        )
        if first == step and rng.random() < 0.5:
            question = pick(rng, f"Count by {name} to {last}.", f"Count to {last} by {name}.")
        numbers = range(first, last + 1, step)
    else:
        last = rng.randint(2, 20)
        question = pick(
            rng,
            f"Count to {words.number_word(last)} in words.",
            f"Count from one to {words.number_word(last)} in words.",
            f"Count to {last} in words.",
        )
        answer = ", ".join(words.number_word(n) for n in range(1, last + 1))
        return Exchange(question, answer, answer)
    answer = ", ".join(map(str, numbers))
    return Exchange(question, answer, answer)


def page(rng: random.Random) -> str:
    """A bare row of numbers, as a text to go on with."""
    first, step = rng.randint(0, 60), rng.choice((1, 1, 1, 2, 5, 10))
    numbers = range(first, first + step * rng.randint(5, 40), step)
    return pick(rng, ", ", " ", "\n").join(map(str, numbers))
