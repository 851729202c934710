"""Short texts with a question about them: the answer is in the text and nowhere else.

Knows nothing about chats.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import capital, with_article

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


def _owners(rng: random.Random) -> tuple[list[str], Exchange]:
    names = [words.person(rng) for _ in range(rng.randint(1, 3))]
    toys = rng.sample(words.TOYS, len(names))
    colors = rng.sample(words.PLAIN_COLORS, len(names))
    text = [
        f"{name} has {with_article(f'{color} {toy}')}."
        for name, color, toy in zip(names, colors, toys, strict=True)
    ]
    at = rng.randrange(len(names))
    name, color, toy = names[at], colors[at], toys[at]
    match rng.randrange(3):
        case 0:
            return text, Exchange(f"Who has the {toy}?", f"{name} has the {toy}.", name)
        case 1:
            return text, Exchange(
                f"What does {name} have?", f"{name} has {with_article(f'{color} {toy}')}.", toy
            )
        case _:
            return text, Exchange(f"What color is the {toy}?", f"The {toy} is {color}.", color)


def _trips(rng: random.Random) -> tuple[list[str], Exchange]:
    names = [words.person(rng) for _ in range(rng.randint(1, 3))]
    places = rng.sample(PLACES, len(names))
    days = rng.sample(words.DAYS, len(names))
    text = [f"{name} goes to {place} on {day}." for name, place, day in zip(names, places, days, strict=True)]
    at = rng.randrange(len(names))
    name, place, day = names[at], places[at], days[at]
    match rng.randrange(3):
        case 0:
            return text, Exchange(f"Where does {name} go?", f"{name} goes to {place}.", place)
        case 1:
            return text, Exchange(f"When does {name} go to {place}?", f"On {day}.", day)
        case _:
            return text, Exchange(f"Who goes to {place}?", f"{name} goes to {place}.", name)


def _facts(rng: random.Random) -> tuple[list[str], Exchange]:
    name, age, city, job = (
        words.person(rng),
        rng.randint(18, 80),
        rng.choice(words.CITIES),
        rng.choice(words.JOBS),
    )
    text = [f"{name} is {age} years old.", f"{name} lives in {city}.", f"{name} is {with_article(job)}."]
    rng.shuffle(text)
    question, answer, key = rng.choice(
        (
            (f"How old is {name}?", f"{name} is {age} years old.", str(age)),
            (f"Where does {name} live?", f"{name} lives in {city}.", city),
            (f"What is the job of {name}?", f"{name} is {with_article(job)}.", job),
        )
    )
    return text, Exchange(question, answer, key)


def _things(rng: random.Random) -> tuple[list[str], Exchange]:
    count = rng.randint(1, 3)
    things, places = rng.sample(words.TOOLS, count), rng.sample(words.FURNITURE, count)
    where = [pick(rng, "on", "under", "behind", "next to") for _ in range(count)]
    text = [
        f"The {thing} is {word} the {place}."
        for thing, word, place in zip(things, where, places, strict=True)
    ]
    at = rng.randrange(count)
    if rng.random() < 0.6:
        return text, Exchange(f"Where is the {things[at]}?", capital(text[at]), places[at])
    return text, Exchange(
        f"What is {where[at]} the {places[at]}?",
        f"The {things[at]} is {where[at]} the {places[at]}.",
        things[at],
    )


def exchange(rng: random.Random) -> Exchange:
    """A text of one to three sentences and a question about it."""
    text, one = rng.choice((_owners, _trips, _facts, _things))(rng)
    body = " ".join(text)
    question = pick(
        rng,
        f"{body} {one.question}",
        f"{body} {one.question}",
        f"Read this: {body} {one.question}",
        f"{body}\n{one.question}",
    )
    return Exchange(question, one.answer, one.key)
