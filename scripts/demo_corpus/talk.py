"""Small talk, jokes, explanations, questions that are too hard, and small programs.

Knows nothing about chats of several turns.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.facts import read_facts
from demo_corpus.templates import expand, read_talk

TITLES = ("The Long Road", "City of Rain", "A Summer Alone", "The Iron Gate", "Night Train", "Silent House")


def _block(rng: random.Random, name: str) -> Exchange:
    asked, answered = rng.choice(read_talk(name))
    answer = expand(rng, rng.choice(answered))
    slots = {"gibberish": _gibberish(rng), "gibberish2": _gibberish(rng)}
    return Exchange(expand(rng, rng.choice(asked), slots), answer, answer)


def _gibberish(rng: random.Random) -> str:
    """Two words in one: long enough not to be a greeting by chance, as "hi" was once."""
    return words.new_word(rng) + words.new_word(rng)


def small_talk(rng: random.Random) -> Exchange:
    """Greetings, thanks, and what one asks a model about itself."""
    return _block(rng, "small_talk")


def why(rng: random.Random) -> Exchange:
    """A short explanation."""
    return _block(rng, "whys")


def joke(rng: random.Random) -> Exchange:
    """A joke."""
    return _block(rng, "jokes")


def unknown(rng: random.Random) -> Exchange:
    """A question that such a model should not try to answer."""
    slots = {
        "country": rng.choice(read_facts()[0][3])[0],
        "city": rng.choice(words.CITIES),
        "year": str(rng.randint(1200, 2020)),
        "person": rng.choice(words.GIRLS + words.BOYS),
        "surname": rng.choice(words.SURNAMES),
        "big": str(rng.randint(200, 99999)),
        "big2": str(rng.randint(20, 9999)),
        "title": rng.choice(TITLES),
    }
    asked, answered = rng.choice(read_talk("unknown"))
    return Exchange(
        expand(rng, rng.choice(asked), slots),
        expand(rng, rng.choice(answered)),
        "do not know|too hard|small model",
    )


PROGRAMS = {
    "prints hello": 'print("Hello, world!")',
    "prints Hello, world!": 'print("Hello, world!")',
    "prints your name": 'print("I am the demo model of mlx-runner.")',
    "counts to {n}": "for number in range(1, {m}):\n    print(number)",
    "prints the numbers from 1 to {n}": "for number in range(1, {m}):\n    print(number)",
    "adds two numbers": "def add(a, b):\n    return a + b",
    "multiplies two numbers": "def multiply(a, b):\n    return a * b",
    "subtracts two numbers": "def subtract(a, b):\n    return a - b",
    "doubles a number": "def double(number):\n    return 2 * number",
    "returns the bigger of two numbers": "def bigger(a, b):\n    if a > b:\n        return a\n    return b",
    "checks if a number is even": "def is_even(number):\n    return number % 2 == 0",
    "greets a person": 'def greet(name):\n    return f"Hello, {name}!"',
    "reverses a string": "def reverse(text):\n    return text[::-1]",
    "sums a list": "def total(numbers):\n    result = 0\n    for number in numbers:\n        result += number\n"
    "    return result",
    "counts down from {n}": "for number in range({n}, 0, -1):\n    print(number)",
    "prints a list of colors": 'for color in ["red", "green", "blue"]:\n    print(color)',
}


def program(rng: random.Random) -> Exchange:
    """A tiny Python program."""
    task, code = rng.choice(list(PROGRAMS.items()))
    n = rng.randint(3, 20)
    task, code = (text.replace("{n}", str(n)).replace("{m}", str(n + 1)) for text in (task, code))
    question = pick(
        rng,
        f"Write a Python program that {task}.",
        f"Write Python code that {task}.",
        f"Write a Python function that {task}."
        if code.startswith("def")
        else f"Write a small program that {task}.",
        f"Show me Python code that {task}.",
    )
    if "Hello, world" in code and rng.random() < 0.6:
        question = expand(
            rng,
            "[Write hello world in Python.|Show me hello world in Python.|Hello world in Python, please.]",
        )
    return Exchange(question, f"```python\n{code}\n```", code)


def exchange(rng: random.Random) -> Exchange:
    """Any of the above."""
    return rng.choices((small_talk, why, joke, unknown, program), (9, 6, 1, 2, 1))[0](rng)
