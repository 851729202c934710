"""JSON records: about a thing, with the fields asked for, from a sentence, or around a small sum.

Always valid JSON, compact as `json.dumps` writes it unless an indented one is asked for.
Knows nothing about chats.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from demo_corpus import facts, sums, words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import expand, with_article

Field = Callable[[random.Random], Any]


def _of(*options: Any) -> Field:
    return lambda rng: rng.choice(options)


def _between(first: int, last: int) -> Field:
    return lambda rng: rng.randint(first, last)


_PERSON = words.person
_PET = _of(*words.PET_NAMES)
_COLOR = _of(*words.PLAIN_COLORS)
_BOOL = _of(True, False)
_CITY = _of(*words.CITIES)
_TITLE = _of(
    "The Blue Door",
    "A Walk in the Rain",
    "The Last Lamp",
    "Seven Small Stones",
    "The Quiet River",
    "Moon Soup",
    "The Fox and the Clock",
    "Letters from the Sea",
    "The Garden Key",
    "A House of Snow",
    "The Paper Boat",
)

RECORDS: dict[str, dict[str, Field]] = {
    "cat": {"name": _PET, "age": _between(1, 15), "color": _COLOR, "indoor": _BOOL},
    "dog": {
        "name": _PET,
        "age": _between(1, 15),
        "color": _COLOR,
        "weight": _between(3, 40),
        "trained": _BOOL,
    },
    "rabbit": {"name": _PET, "age": _between(1, 9), "color": _COLOR},
    "horse": {"name": _PET, "age": _between(1, 25), "color": _COLOR, "fast": _BOOL},
    "bird": {"name": _PET, "color": _COLOR, "can_fly": _BOOL},
    "person": {"name": _PERSON, "age": _between(5, 90), "city": _CITY, "job": _of(*words.JOBS)},
    "student": {
        "name": _PERSON,
        "age": _between(6, 18),
        "grade": _between(1, 12),
        "sport": _of(*words.SPORTS),
    },
    "teacher": {
        "name": _PERSON,
        "age": _between(25, 65),
        "subject": _of("math", "music", "art", "history", "sport"),
    },
    "friend": {
        "name": _PERSON,
        "age": _between(5, 90),
        "hobby": _of("reading", "painting", "chess", "music", "cooking"),
    },
    "user": {"id": _between(1, 99), "name": _PERSON, "active": _BOOL},
    "book": {"title": _TITLE, "author": _PERSON, "pages": _between(20, 400), "year": _between(1950, 2025)},
    "song": {"title": _TITLE, "singer": _PERSON, "minutes": _between(2, 6)},
    "car": {"color": _COLOR, "doors": _of(2, 4, 5), "year": _between(1990, 2025), "electric": _BOOL},
    "bicycle": {"color": _COLOR, "gears": _of(1, 3, 7, 21), "price": _between(50, 900)},
    "house": {"color": _COLOR, "rooms": _between(1, 9), "garden": _BOOL, "city": _CITY},
    "city": {"name": _CITY, "rainy": _BOOL, "bridges": _between(1, 30)},
    "fruit": {"name": _of(*words.FRUITS), "color": _COLOR, "sweet": _BOOL, "price": _between(1, 5)},
    "robot": {
        "name": _of("Bolt", "Tick", "Zip", "Sprocket", "Tin"),
        "battery": _between(1, 100),
        "color": _COLOR,
    },
    "tree": {"kind": _of(*words.TREES), "height": _between(2, 40), "age": _between(1, 300)},
    "flower": {"kind": _of(*words.FLOWERS), "color": _COLOR, "height": _between(5, 90)},
    "hat": {"color": _COLOR, "size": _of("small", "medium", "large"), "price": _between(5, 60)},
    "meal": {"name": _of(*words.FOODS), "hot": _BOOL, "price": _between(2, 20)},
    "weather report": {"city": _CITY, "sky": _of(*words.WEATHER), "temperature": _between(-5, 35)},
    "task": {
        "title": _of("wash the dishes", "water the flowers", "feed the cat", "buy bread", "call a friend"),
        "done": _BOOL,
    },
    "ship": {
        "name": _of("Dolphin", "North Star", "Sea Bird", "Aurora"),
        "length": _between(5, 200),
        "color": _COLOR,
    },
}


def _record(rng: random.Random, thing: str, fields: list[str] | None = None) -> dict[str, Any]:
    known = RECORDS[thing]
    return {field: known[field](rng) for field in (fields or known)}


def _dump(rng: random.Random, value: Any, question: str) -> Exchange:
    if rng.random() < 0.08:
        question += pick(rng, " Use indented JSON.", " Indent the JSON.", " Please indent it.")
        return Exchange(question, json.dumps(value, indent=2), "{")
    return Exchange(question, json.dumps(value), "{")


def about_thing(rng: random.Random) -> Exchange:
    """ "Give me a JSON record of a cat", with or without the fields named."""
    thing = rng.choice(list(RECORDS))
    a_thing = f"{'an' if thing[0] in 'aeio' else 'a'} {thing}"
    fields = None
    named = ""
    if rng.random() < 0.55:
        fields = rng.sample(list(RECORDS[thing]), rng.randint(1, min(4, len(RECORDS[thing]))))
        quoted = [f'"{field}"' for field in fields] if rng.random() < 0.3 else fields
        plain = words.joined(quoted)
        word = "field" if len(fields) == 1 else "fields"
        named = pick(
            rng, f" with {plain}", f" with the {word} {plain}", f" with the {word} {', '.join(quoted)}"
        )
    question = pick(
        rng,
        f"Give me a JSON record of {a_thing}{named}.",
        f"Write a JSON record of {a_thing}{named}.",
        f"Make a JSON object for {a_thing}{named}.",
        f"Show me {a_thing} as JSON{named}.",
        f"Describe {a_thing} as JSON{named}.",
        f"JSON record of {a_thing}{named}",
        f"Create JSON for {a_thing}{named}.",
        f"Describe {a_thing} in JSON{named}.",
        f"Return a JSON object about {a_thing}{named}.",
    )
    return _dump(rng, _record(rng, thing, fields), question)


def list_of_things(rng: random.Random) -> Exchange:
    """An array of two to four records with few fields."""
    thing = rng.choice(list(RECORDS))
    count = rng.randint(2, 4)
    fields = list(RECORDS[thing])[: rng.randint(1, 2)]
    things = words.plural(thing)
    question = pick(
        rng,
        f"Give me a JSON list of {words.number_word(count)} {things} with {words.joined(fields)}.",
        f"Write a JSON array of {count} {things} with {words.joined(fields)}.",
    )
    return Exchange(question, json.dumps([_record(rng, thing, fields) for _ in range(count)]), "[")


def plain_list(rng: random.Random) -> Exchange:
    """An array of words."""
    name, options = rng.choice(
        (
            ("colors", words.PLAIN_COLORS),
            ("fruits", words.FRUITS),
            ("animals", words.ANIMALS),
            ("days", words.DAYS),
        )
    )
    items = rng.sample(options, rng.randint(2, 5))
    count = words.number_word(len(items))
    question = pick(
        rng,
        f"Give me a JSON list of {count} {name}.",
        f"Write {count} {name} as a JSON array.",
        f"List {count} {name} as JSON.",
    )
    return Exchange(question, json.dumps(items), "[")


def from_sentence(rng: random.Random) -> Exchange:
    """The facts of a sentence, put into a record."""
    name, age, city, color = _PERSON(rng), _between(3, 90)(rng), _CITY(rng), _COLOR(rng)
    pet, pet_name = rng.choice(words.PETS), _PET(rng)
    sentence, value = rng.choice(
        (
            (f"{name} is {age} years old and lives in {city}.", {"name": name, "age": age, "city": city}),
            (f"{name} lives in {city} and is {age}.", {"name": name, "age": age, "city": city}),
            (
                f"{name} has {with_article(color)} {pet} named {pet_name}.",
                {"owner": name, "pet": pet, "name": pet_name, "color": color},
            ),
            (
                f"{pet_name} is {with_article(color)} {pet}.",
                {"name": pet_name, "animal": pet, "color": color},
            ),
            (f"a person named {name} who is {age} years old", {"name": name, "age": age}),
            (f"a person named {name} who is {age}", {"name": name, "age": age}),
            (
                f"{with_article(color)} {pet} named {pet_name}",
                {"name": pet_name, "animal": pet, "color": color},
            ),
            (f"{name} likes the color {color}.", {"name": name, "color": color}),
        )
    )
    if not sentence.endswith("."):
        asked = "[Give me JSON for|Write JSON for|Make a JSON record of|Give me a JSON object for|Describe]"
        question = f"{expand(rng, asked)} {sentence}"
        return _dump(rng, value, question + (" as JSON." if question.startswith("Describe") else "."))
    question = pick(
        rng,
        f"Write this as JSON: {sentence}",
        f"Make a JSON record of this: {sentence}",
        f"{sentence} Write this as JSON.",
        f"Turn this into JSON: {sentence}",
        f"Turn this into JSON with {words.joined(list(value))}: {sentence}",
    )
    return _dump(rng, value, question)


def sum_in_json(rng: random.Random) -> Exchange:
    """A sum whose answer is wanted as JSON."""
    a, sign, b, result = sums.operands(rng)
    field = pick(rng, "result", "answer", "sum" if sign == "+" else "result", "value")
    question = pick(
        rng,
        f"What is {a} {sign} {b}? Answer as JSON with the field {field}.",
        f'Calculate {a} {sign} {b} and answer in JSON with the key "{field}".',
    )
    return Exchange(question, json.dumps({field: result}), str(result))


def fact_in_json(rng: random.Random) -> Exchange:
    """A fact whose answer is wanted as JSON, or a country as a record."""
    if rng.random() < 0.3:
        country, capital = rng.choice(facts.read_facts()[0][3])
        question = pick(
            rng,
            f"Tell me about {country} in JSON.",
            f"Describe {country} as JSON with name and capital.",
            f"Give me a JSON record of {country} with name and capital.",
        )
        return Exchange(
            question, json.dumps({"name": country, "capital": capital}, ensure_ascii=False), capital
        )
    one = facts.from_table(rng)
    ask = pick(
        rng, "Respond using JSON.", "Respond in JSON.", "Answer in JSON.", "Answer as JSON.", "Reply in JSON."
    )
    return Exchange(f"{one.question} {ask}", json.dumps({"answer": one.key}, ensure_ascii=False), one.key)


def exchange(rng: random.Random) -> Exchange:
    """Any of the above."""
    skills = (about_thing, list_of_things, plain_list, from_sentence, sum_in_json, fact_in_json)
    return rng.choices(skills, (8, 2, 2, 4, 2, 4))[0](rng)


def page(rng: random.Random) -> str:
    """A bare record, or several, one a line."""
    thing = rng.choice(list(RECORDS))
    return "\n".join(json.dumps(_record(rng, thing)) for _ in range(rng.choice((1, 1, 2, 4, 8))))
