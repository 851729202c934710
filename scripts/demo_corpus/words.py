"""The word lists that several skills share, from texts/words.txt. Knows nothing about how they are used."""

from __future__ import annotations

import random
import re

from demo_corpus.templates import TEXTS


def _read_lists() -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    name = ""
    for line in (TEXTS / "words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            name, _, line = line.partition(":")
            lists[name] = []
        lists[name] += line.split()
    return lists


def _read_pairs(name: str) -> dict[str, str]:
    lines = (TEXTS / name).read_text(encoding="utf-8").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)


LISTS = _read_lists()
_START = "bcdfghjklmnprstvwz"


def new_word(rng: random.Random) -> str:
    """A word that does not exist, of two or three syllables: nothing about it can be remembered, only copied."""
    syllables = (
        rng.choice(_START)
        + rng.choice("aeiou")
        + rng.choice(
            ("", "", "", "n", "r", "l", "s", "t", "m", "ck", "b", "d", "p", "g", "x", "th", "sh", "ll")
        )
        for _ in range(rng.randint(1, 3))
    )
    return "".join(syllables)


def person(rng: random.Random) -> str:
    """A name, now and then a new one."""
    name = rng.choice(GIRLS + BOYS) if rng.random() < 0.75 else new_word(rng)
    return name[0].upper() + name[1:]


PLURALS = _read_pairs("plurals.txt")
EMOJIS = _read_pairs("emoji.txt")

GIRLS = LISTS["girls"]
BOYS = LISTS["boys"]
PET_NAMES = LISTS["pet_names"]
PLAIN_COLORS = LISTS["plain_colors"]
PETS = LISTS["pets"]
ANIMALS = LISTS["animals"]
FRUITS = LISTS["fruits"]
VEGETABLES = LISTS["vegetables"]
FOODS = LISTS["foods"]
TOYS = LISTS["toys"]
TOOLS = LISTS["tools"]
CLOTHES = LISTS["clothes"]
FURNITURE = LISTS["furniture"]
VEHICLES = LISTS["vehicles"]
FLOWERS = LISTS["flowers"]
TREES = LISTS["trees"]
INSTRUMENTS = LISTS["instruments"]
JOBS = LISTS["jobs"]
SPORTS = LISTS["sports"]
SCHOOL = LISTS["school"]
BODY = LISTS["body"]
WEATHER = LISTS["weather"]
CITIES = LISTS["cities"]
DAYS = LISTS["days"]
MONTHS = LISTS["months"]
SEASONS = LISTS["seasons"]
SMALL = LISTS["small"]
TENS = LISTS["tens"]
ORDINALS = LISTS["ordinals"]
STORY_ANIMALS = LISTS["story_animals"]
STORY_BEINGS = LISTS["story_beings"]
STORY_THINGS = LISTS["story_things"]
STORY_PEOPLE = LISTS["story_people"]
BY_SIZE = LISTS["by_size"]
ADJECTIVES = LISTS["adjectives"]
SURNAMES = LISTS["surnames"]
COUNTABLES = LISTS["countables"]


def plural(noun: str) -> str:
    """The plural of a noun used here."""
    return PLURALS.get(noun, f"{noun}s")


def number_word(number: int) -> str:
    """0 to 100 in words."""
    if number <= 20:
        return SMALL[number]
    if number == 100:
        return "one hundred"
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{SMALL[ones]}" if ones else "")


def joined(items: list[str]) -> str:
    """ "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _every_word() -> list[str]:
    """All plain words of the corpus: what a word task may be about."""
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(TEXTS.rglob("*.txt")))
    found = set(re.findall(r"(?<![\w{@'])[a-z]{2,12}(?![\w}'])", text)) | set(LISTS["more"])
    return sorted(found)


SPELLING = _every_word()
