"""Small tasks on words and sentences: spell, count letters, upper case, reverse, repeat, sort, rewrite.

Knows nothing about chats.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import capital, expand

SENTENCES = (
    "[The|A|My|Our|Your] {adj} {animal} [sleeps|sits|waits|plays|sings|runs] "
    "[under the {tree}|in the garden|by the door|on the {thing}|near the river].",
    "[I like|We like|She likes|He likes|They like] {food} and {food2}.",
    "The {thing} is [on|under|behind|next to] the {thing2}.",
    "{name} has {a color} {toy}.",
    "[Today|Tomorrow] it will be {weather}.",
    "{name} and {name2} go to [school|the market|the beach|the park].",
    "The {color} {vehicle} is [very fast|very slow|new|old].",
    "[Good things|Big trees|Small birds|Old friends] [take time|need rain|sing loudly|are precious].",
)


def sentence(rng: random.Random) -> str:
    """A plain sentence to work on."""
    food, food2 = rng.sample(words.FOODS, 2)
    thing, thing2 = rng.sample(words.FURNITURE, 2)
    slots = {
        "adj": rng.choice(words.ADJECTIVES),
        "animal": rng.choice(words.ANIMALS),
        "tree": rng.choice(words.TREES),
        "food": food,
        "food2": food2,
        "thing": thing,
        "thing2": thing2,
        "color": rng.choice(words.PLAIN_COLORS),
        "name": rng.choice(words.GIRLS),
        "name2": rng.choice(words.BOYS),
        "toy": rng.choice(words.TOYS),
        "weather": rng.choice(words.WEATHER),
        "vehicle": rng.choice(words.VEHICLES),
    }
    return expand(rng, rng.choice(SENTENCES), slots)


def phrase(rng: random.Random) -> str:
    """Words in no order at all, some of them new: only copying helps."""
    some = [
        rng.choice(words.SPELLING) if rng.random() < 0.8 else words.new_word(rng)
        for _ in range(rng.randint(2, 7))
    ]
    text = " ".join(some)
    return capital(text) + "." if rng.random() < 0.3 else text


def on_word(rng: random.Random) -> Exchange:
    """A task on one word."""
    word = rng.choice(words.SPELLING) if rng.random() < 0.7 else words.new_word(rng)
    quoted = pick(rng, f'"{word}"', word, f"the word {word}", f'the word "{word}"')
    match rng.choice((0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6)):
        case 0:
            question = pick(
                rng,
                f"Spell {quoted}.",
                f"How do you spell {quoted}?",
                f"Can you spell {quoted}?",
                f"Please spell {quoted}.",
            )
            answer = "-".join(word)
        case 1:
            question = pick(
                rng,
                f"Write {quoted} in capital letters.",
                f"Write {quoted} in uppercase.",
                f"Uppercase: {word}",
                f"Make {quoted} uppercase.",
                f"Put {quoted} in capital letters.",
            )
            answer = word.upper()
        case 2:
            question = pick(
                rng,
                f"How many letters are in {quoted}?",
                f"How many letters does {quoted} have?",
                f"Count the letters in {quoted}.",
            )
            return Exchange(question, f"{'-'.join(word)}: {len(word)} letters.", str(len(word)))
        case 3:
            question = pick(
                rng, f"What is the first letter of {quoted}?", f"With which letter does {quoted} begin?"
            )
            answer = word[0].upper()
        case 4:
            question = pick(
                rng, f"What is the last letter of {quoted}?", f"With which letter does {quoted} end?"
            )
            answer = word[-1].upper()
        case 5:
            question = pick(
                rng,
                f"Spell {quoted} backwards.",
                f"Spell {quoted} backward.",
                f"Reverse {quoted}.",
                f"Write {quoted} backwards.",
            )
            answer = "-".join(reversed(word))
        case _:
            question = pick(rng, f"Write {quoted} with a capital letter.", f"Capitalize {quoted}.")
            answer = capital(word)
    return Exchange(question, answer, answer)


def on_sentence(rng: random.Random) -> Exchange:
    """A task on a sentence."""
    text = sentence(rng) if rng.random() < 0.7 else phrase(rng)
    match rng.randrange(6):
        case 0 | 1:
            question = pick(
                rng,
                f"Repeat this sentence: {text}",
                f"Say: {text}",
                f"Repeat after me: {text}",
                f'Please repeat: "{text}"',
                f"Write this again: {text}",
            )
            answer = text
        case 2:
            question = pick(
                rng,
                f"Write this in capital letters: {text}",
                f"Make this uppercase: {text}",
                f"Write in uppercase: {text}",
            )
            answer = text.upper()
        case 3:
            question = pick(
                rng, f"Write this in small letters: {text.upper()}", f"Make this lowercase: {text.upper()}"
            )
            answer = text.lower()
        case 4:
            count = len(text.split())
            question = pick(rng, f"How many words are in this sentence? {text}", f"Count the words: {text}")
            return Exchange(
                question, f"There are {words.number_word(count)} words.", words.number_word(count)
            )
        case _:
            last = rng.random() < 0.5
            question = f"What is the {'last' if last else 'first'} word of this sentence? {text}"
            answer = text.strip(".").split()[-1 if last else 0]
    return Exchange(question, answer, answer)


def on_list(rng: random.Random) -> Exchange:
    """Sort words or numbers, or pick the biggest or the longest."""
    if rng.random() < 0.5:
        items = rng.sample(words.SPELLING, rng.randint(3, 4))
        question = pick(
            rng, "Sort these words: ", "Put these words in alphabetical order: ", "Sort alphabetically: "
        )
        answer = ", ".join(sorted(items))
        return Exchange(question + ", ".join(items), answer, answer)
    numbers = rng.sample(range(1, 100), rng.randint(3, 5))
    shown = ", ".join(map(str, numbers))
    if rng.random() < 0.5:
        answer = ", ".join(map(str, sorted(numbers)))
        return Exchange(
            pick(rng, "Sort these numbers: ", "Put these numbers in order: ") + shown, answer, answer
        )
    best, value = rng.choice((("biggest", max(numbers)), ("smallest", min(numbers))))
    return Exchange(
        f"What is the {best} of these numbers? {shown}", f"The {best} number is {value}.", str(value)
    )


def exchange(rng: random.Random) -> Exchange:
    """Any of the above."""
    return rng.choices((on_word, on_sentence, on_list), (5, 4, 2))[0](rng)
