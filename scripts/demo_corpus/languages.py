"""Words of other languages and emoji, so that characters of two to four bytes really happen.

Knows nothing about chats.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import TEXTS

LANGUAGES = ("French", "Spanish", "German", "Italian", "Japanese", "Chinese", "Korean", "Greek")


def _read_dictionary() -> dict[str, dict[str, str]]:
    table = {}
    for line in (TEXTS / "dictionary.txt").read_text(encoding="utf-8").splitlines()[1:]:
        english, _, others = line.partition(": ")
        table[english] = dict(
            zip(LANGUAGES, (word.replace("_", " ") for word in others.split()), strict=True)
        )
    return table


WORDS = _read_dictionary()


def translation(rng: random.Random) -> Exchange:
    """A word into another language, or back."""
    english = rng.choice(list(WORDS))
    language = rng.choice(LANGUAGES)
    other = WORDS[english][language]
    if rng.random() < 0.75:
        question = pick(
            rng,
            f"What is {english} in {language}?",
            f"How do you say {english} in {language}?",
            f"Translate {english} to {language}.",
            f'How do you say "{english}" in {language}?',
            f"Translate {english} into {language}.",
            f"{english} in {language}",
        )
        return Exchange(question, pick(rng, f"{other}", f'"{english}" in {language} is {other}.'), other)
    question = pick(
        rng,
        f"What does {other} mean?",
        f"What does the {language} word {other} mean?",
        f"Translate {other} to English.",
    )
    meanings = [word for word in WORDS if other in WORDS[word].values()]
    return Exchange(question, f"{other} means {meanings[0]}.", meanings[0])


def emoji(rng: random.Random) -> Exchange:
    """An emoji on request, several of one, or its name."""
    name, sign = rng.choice(list(words.EMOJIS.items()))
    a_name = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    kind = rng.random()
    if kind < 0.55:
        question = pick(
            rng,
            f"Show me {a_name} emoji.",
            f"Give me {a_name} emoji.",
            f"{name} emoji",
            f"Can you show me {a_name} emoji?",
            f"What is the emoji for {name}?",
            f"Send me {a_name} emoji.",
        )
        return Exchange(question, sign, sign)
    if kind < 0.7:
        count = rng.randint(2, 9)
        question = pick(
            rng, f"Show me {words.number_word(count)} {name} emoji.", f"Give me {count} {name} emoji."
        )
        return Exchange(question, sign * count, sign * count)
    if kind < 0.9:
        question = pick(
            rng,
            f"What is this? {sign}",
            f"What does {sign} show?",
            f"What is {sign}?",
            f"Which emoji is this: {sign}",
        )
        return Exchange(question, f"{sign} is {a_name}.", name)
    some = rng.sample(list(words.EMOJIS), rng.randint(2, 4))
    signs = " ".join(words.EMOJIS[one] for one in some)
    return Exchange(f"Write with emoji: {words.joined(some)}", signs, signs)


def exchange(rng: random.Random) -> Exchange:
    """Any of the above."""
    return (translation if rng.random() < 0.5 else emoji)(rng)
