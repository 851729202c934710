"""Short texts with a question about them: the answer is in the text and nowhere else.

Knows nothing about chats.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import with_article

PLACES = (
    "the park",
    "the beach",
    "the market",
    "the forest",
    "the library",
    "the lake",
    "the museum",
    "the garden",
)


Text = tuple[list[str], list[Exchange]]
"""The sentences, and every question about them."""


def _owners(rng: random.Random) -> Text:
    count = rng.randint(1, 3)
    names = [words.person(rng) for _ in range(count)]
    toys, colors = rng.sample(words.TOYS, count), rng.sample(words.PLAIN_COLORS, count)
    text, asked = [], []
    for name, color, toy in zip(names, colors, toys, strict=True):
        thing = with_article(f"{color} {toy}")
        text.append(f"{name} has {thing}.")
        asked.append(Exchange(f"Who has the {toy}?", f"{name} has the {toy}.", name))
        asked.append(Exchange(f"What does {name} have?", f"{name} has {thing}.", toy))
        asked.append(Exchange(f"What color is the {toy}?", f"The {toy} is {color}.", color))
    return text, asked


def _trips(rng: random.Random) -> Text:
    count = rng.randint(1, 3)
    names = [words.person(rng) for _ in range(count)]
    text, asked = [], []
    for name, place, day in zip(names, rng.sample(PLACES, count), rng.sample(words.DAYS, count), strict=True):
        text.append(f"{name} goes to {place} on {day}.")
        asked.append(Exchange(f"Where does {name} go?", f"{name} goes to {place}.", place))
        asked.append(Exchange(f"When does {name} go to {place}?", f"On {day}.", day))
        asked.append(Exchange(f"Who goes to {place}?", f"{name} goes to {place}.", name))
    return text, asked


def _facts(rng: random.Random) -> Text:
    name, age, city, job = (
        words.person(rng),
        rng.randint(18, 80),
        rng.choice(words.CITIES),
        rng.choice(words.JOBS),
    )
    text = [f"{name} is {age} years old.", f"{name} lives in {city}.", f"{name} is {with_article(job)}."]
    rng.shuffle(text)
    return text, [
        Exchange(f"How old is {name}?", f"{name} is {age} years old.", str(age)),
        Exchange(f"Where does {name} live?", f"{name} lives in {city}.", city),
        Exchange(f"What is the job of {name}?", f"{name} is {with_article(job)}.", job),
    ]


def _things(rng: random.Random) -> Text:
    count = rng.randint(1, 3)
    text, asked = [], []
    for thing, place in zip(rng.sample(words.TOOLS, count), rng.sample(words.FURNITURE, count), strict=True):
        where = f"{pick(rng, 'on', 'under', 'behind', 'next to')} the {place}"
        text.append(f"The {thing} is {where}.")
        asked.append(Exchange(f"Where is the {thing}?", f"The {thing} is {where}.", place))
        asked.append(Exchange(f"What is {where}?", f"The {thing} is {where}.", thing))
    return text, asked


def _any(rng: random.Random) -> Text:
    return rng.choice((_owners, _trips, _facts, _things))(rng)


def exchange(rng: random.Random) -> Exchange:
    """A text of one to three sentences and a question about it."""
    text, asked = _any(rng)
    one = rng.choice(asked)
    body = " ".join(text)
    start, gap = pick(rng, "", "", "Read this: "), pick(rng, " ", " ", "\n")
    return Exchange(f"{start}{body}{gap}{one.question}", one.answer, one.key)


def page(rng: random.Random) -> str:
    """A text and every question about it: the densest way to learn who is who."""
    text, asked = _any(rng)
    rng.shuffle(asked)
    return "\n".join([" ".join(text), *(f"{one.question} {one.answer}" for one in asked)])
