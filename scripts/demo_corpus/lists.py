"""Lists of things on request. Knows nothing about chats."""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import capital

GROUPS = {
    "animals": words.ANIMALS,
    "pets": words.PETS,
    "colors": words.PLAIN_COLORS,
    "fruits": words.FRUITS,
    "vegetables": words.VEGETABLES,
    "tools": words.TOOLS,
    "toys": words.TOYS,
    "clothes": words.CLOTHES,
    "pieces of furniture": words.FURNITURE,
    "vehicles": words.VEHICLES,
    "flowers": words.FLOWERS,
    "trees": words.TREES,
    "musical instruments": words.INSTRUMENTS,
    "jobs": words.JOBS,
    "sports": words.SPORTS,
    "things to eat": words.FOODS,
    "parts of the body": words.BODY,
    "things for school": words.SCHOOL,
    "countries": words.LISTS["countries"],
    "planets": words.LISTS["planets"],
    "continents": words.LISTS["continents"],
    "drinks": words.LISTS["drinks"],
    "shapes": words.LISTS["shapes"],
    "languages": words.LISTS["languages"],
    "insects": words.LISTS["insects"],
    "rooms": words.LISTS["rooms"],
    "school subjects": words.LISTS["school_subjects"],
    "vowels": words.LISTS["vowels"],
    "hot things": words.LISTS["hot_things"],
    "cold things": words.LISTS["cold_things"],
    "round things": words.LISTS["round_things"],
    "names": words.GIRLS + words.BOYS,
    "names for a cat": words.PET_NAMES,
    "names for a dog": words.PET_NAMES,
    "cities": words.CITIES,
    "girl names": words.GIRLS,
    "boy names": words.BOYS,
    "pet names": words.PET_NAMES,
    "farm animals": ["cow", "pig", "hen", "horse", "sheep", "goat", "duck"],
    "birds": ["owl", "crow", "sparrow", "swan", "duck", "hen", "penguin"],
}
ORDERED = {"days of the week": words.DAYS, "months of the year": words.MONTHS, "seasons": words.SEASONS}


def exchange(rng: random.Random) -> Exchange:
    """A list, in a row, numbered or with dashes."""
    if rng.random() < 0.15:
        name, items = rng.choice(list(ORDERED.items()))
        question = pick(
            rng, f"List the {name}.", f"What are the {name}?", f"Name the {name}.", f"Tell me the {name}."
        )
        return Exchange(question, ", ".join(items), ", ".join(items))
    name, options = rng.choice(list(GROUPS.items()))
    count = rng.randint(2, 7)
    items = rng.sample(options, min(count, len(options)))
    count = len(items)
    number = pick(rng, str(count), words.number_word(count), words.number_word(count))
    kind = rng.random()
    verb = pick(rng, "List", "Name", "Give me", "Tell me", "Write", "Write a list of", "Make a list of")
    if kind < 0.4:
        return Exchange(f"{verb} {number} {name}.", ", ".join(items), ", ".join(items))
    if kind < 0.7:
        lines = "\n".join(f"{at}. {capital(item)}" for at, item in enumerate(items, 1))
        extra = pick(
            rng,
            f"{verb} {number} {name}, one per line.",
            f"{verb} {number} {name} as a numbered list.",
            f"Make a numbered list of {number} {name}.",
        )
        return Exchange(extra, lines, lines)
    if kind < 0.85:
        lines = "\n".join(f"- {item}" for item in items)
        return Exchange(
            pick(
                rng,
                f"Make a list of {number} {name} with dashes.",
                f"{verb} {number} {name} as bullet points.",
            ),
            lines,
            lines,
        )
    one = name.removesuffix("s") if name not in ("clothes",) else "piece of clothing"
    one = {
        "pieces of furniture": "piece of furniture",
        "things to eat": "thing to eat",
        "parts of the body": "part of the body",
        "things for school": "thing for school",
        "cities": "city",
        "countries": "country",
        "names for a cat": "name for a cat",
        "names for a dog": "name for a dog",
    }.get(name, one)
    article = "an" if one[0] in "aeiou" else "a"
    question = pick(
        rng,
        f"Name {article} {one}.",
        f"Tell me {article} {one}.",
        f"Give me {article} {one}.",
        f"Say {article} {one}.",
    )
    return Exchange(question, capital(items[0]) + ".", capital(items[0]))
