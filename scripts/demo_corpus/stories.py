"""Stories: a plot of texts/plots filled with characters, and the requests that ask for one.

Characters keep their name and pronouns from the first line to the last; that is what the model learns coherence
from. Knows nothing about chats.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import TEXTS, capital, expand, expand_plot, read_plot, read_plots, with_article

PLOTS = sorted(path.stem for path in (TEXTS / "plots").glob("*.txt") if path.stem != "common")


FEMALE = {"witch", "queen", "princess", "girl", "woman", "hen", "fairy", "mermaid"}
MALE = {"wizard", "king", "prince", "knight", "boy", "man", "fisherman"}
SIZES = ("little", "little", "small", "young", "old", "clever", "shy", "cheerful", "brave", "curious", "kind")
ELDERS = {
    "mother": "she",
    "father": "he",
    "grandmother": "she",
    "grandfather": "he",
    "aunt": "she",
    "uncle": "he",
}
PRONOUNS = {"he": ("he", "him", "his", "himself"), "she": ("she", "her", "her", "herself")}
MIXED = {
    "green": ("blue", "yellow", ("a meadow", "a frog", "a forest", "some grass")),
    "orange": ("red", "yellow", ("a pumpkin", "a sunset", "a carrot", "an autumn leaf")),
    "purple": ("red", "blue", ("a plum", "a violet", "the evening sky", "some grapes")),
}
RIDDLES = {
    "What has teeth but cannot bite?": "a comb",
    "What has hands but cannot clap?": "a clock",
    "What gets wetter the more it dries?": "a towel",
    "What has a neck but no head?": "a bottle",
    "What has legs but cannot walk?": "a table",
    "What goes up when the rain comes down?": "an umbrella",
    "What has one eye but cannot see?": "a needle",
    "What runs all day but never gets tired?": "a river",
    "What is full of holes but can hold water?": "a sponge",
    "What has a face and no mouth?": "a clock",
    "What follows you all day and is gone at night?": "your shadow",
    "What falls but never gets hurt?": "the rain",
}


def _character(rng: random.Random, noun: str | None = None) -> tuple[str, str, str, tuple[str, ...]]:
    """Noun, description ("shy fox"), name and pronouns."""
    if noun is None:
        pools = (
            ["girl", "boy"],
            words.STORY_ANIMALS,
            words.STORY_BEINGS,
            words.STORY_PEOPLE,
            words.STORY_THINGS,
        )
        noun = (
            rng.choice(rng.choices(pools, (8, 12, 5, 4, 3))[0])
            if rng.random() < 0.95
            else words.new_word(rng)
        )
    he = "she" if noun in FEMALE else "he" if noun in MALE else pick(rng, "he", "she")
    human = noun in ("girl", "boy", "man", "woman") or noun in words.STORY_PEOPLE or noun in MALE | FEMALE
    names = (
        words.PET_NAMES if not human and rng.random() < 0.7 else words.GIRLS if he == "she" else words.BOYS
    )
    size = rng.choice(SIZES) if rng.random() < 0.75 else ""
    if size == "old" and noun in ("girl", "boy"):
        size = "little"
    name = rng.choice(names) if rng.random() < 0.93 else capital(words.new_word(rng))
    return noun, f"{size} {noun}".strip(), name, PRONOUNS[he]


def cast(rng: random.Random, noun: str | None = None) -> dict[str, str]:
    """The slots that every plot may use."""
    noun, kind, hero, he = _character(rng, noun)
    while True:
        fnoun, fkind, friend, he2 = _character(rng)
        if friend != hero and fnoun != noun:
            break
    elder = rng.choice(list(ELDERS))
    ehe = PRONOUNS[ELDERS[elder]]
    price = rng.randint(6, 20)
    have = rng.randint(1, price - 2)
    mixed = rng.choice(list(MIXED))
    first, second, subjects = MIXED[mixed]
    question, answer = rng.choice(list(RIDDLES.items()))
    return {
        "noun": noun,
        "kind": kind,
        "hero": hero,
        "he": he[0],
        "him": he[1],
        "his": he[2],
        "himself": he[3],
        "fnoun": fnoun,
        "fkind": fkind,
        "friend": friend,
        "he2": he2[0],
        "him2": he2[1],
        "his2": he2[2],
        "elder": elder,
        "ehe": ehe[0],
        "ehim": ehe[1],
        "ehis": ehe[2],
        "price": words.number_word(price),
        "have": words.number_word(have),
        "need": words.number_word(price - have),
        "mixed": mixed,
        "first": first,
        "second": second,
        "subject": rng.choice(subjects),
        "question": question,
        "answer": answer,
    }


def story(rng: random.Random, noun: str | None = None) -> tuple[str, dict[str, str]]:
    """A story and the slots it was made of."""
    slots = cast(rng, noun)
    common = [line for line in read_plot("common") if line]
    expand_plot(rng, common, slots)
    text = expand_plot(rng, read_plot(rng.choice(PLOTS)), slots)
    return text, slots


def mini(rng: random.Random) -> Exchange:
    """A story of three or four sentences."""
    slots = cast(rng)
    text = expand_plot(rng, rng.choice(read_plots("mini")), slots)
    topics = [*slots["topic"].split("|"), with_article(slots["kind"]), ""]
    about = rng.choice(topics)
    request = "[Tell me|Write|Please tell me|Can you write] a [very short|tiny|mini|three sentence] story"
    question = expand(rng, request) + (f" about {about}" if about else "")
    return Exchange(question + ("?" if question.startswith("Can") else "."), text, "")


def title(rng: random.Random, slots: dict[str, str]) -> str:
    """ "A Lost Kite", from one of the story's topics."""
    topic = rng.choice(slots["topic"].split("|"))
    small = {"a", "an", "the", "of", "in", "to", "and", "who", "for", "was"}
    return " ".join(word if at and word in small else capital(word) for at, word in enumerate(topic.split()))


def exchange(rng: random.Random) -> Exchange:
    """A request for a story about its hero, its topic or both, or for the rest of a story."""
    if rng.random() < 0.2:
        return mini(rng)
    text, slots = story(rng)
    if rng.random() < 0.15:
        at = text.find(". ", rng.randint(40, 200)) + 1
        if 0 < at < len(text) // 2:
            question = pick(
                rng,
                f"Continue this story: {text[:at]}",
                f"Go on with this story: {text[:at]}",
                f"How does this story go on? {text[:at]}",
            )
            return Exchange(question, text[at:].strip(), "")
    if rng.random() < 0.12:
        opening = (
            text[: text.find(".") + 1] if rng.random() < 0.5 else " ".join(text.split()[: rng.randint(3, 9)])
        )
        return Exchange(opening, text[len(opening) :].strip(), "")
    topics = slots["topic"].split("|")
    a_kind = with_article(slots["kind"])
    about = rng.choice(
        (
            *topics,
            a_kind,
            a_kind,
            with_article(slots["noun"]),
            f"{a_kind} named {slots['hero']}",
            f"{a_kind} and {with_article(slots['fkind'])}",
            f"{slots['hero']} and {slots['friend']}",
            "",
        )
    )
    about = f" about {about}" if about else ""
    question = pick(
        rng,
        f"Tell me a story{about}.",
        f"Tell me a short story{about}.",
        f"Write a story{about}.",
        f"Write a short story{about}.",
        f"Can you tell me a story{about}?",
        f"I would like to hear a story{about}.",
        f"Please tell me a story{about}.",
        f"A story{about}, please.",
        f"Once more a story{about}, please.",
        f"Tell a story{about}.",
    )
    if rng.random() < 0.1:
        return Exchange(question, f"{title(rng, slots)}\n\n{text}", "")
    return Exchange(question, text, "")


def page(rng: random.Random) -> str:
    """A bare story, sometimes with its title."""
    if rng.random() < 0.06:
        return mini(rng).answer
    text, slots = story(rng)
    return f"{title(rng, slots)}\n\n{text}" if rng.random() < 0.2 else text


def _verse(rng: random.Random, name: str) -> tuple[str, str]:
    lines = [line for line in read_plot(f"../{name}") if not line.startswith("#")]
    topic, _, body = rng.choice(lines).partition(" = ")
    return topic, expand(rng, body.replace(" / ", "\n"))


def poem(rng: random.Random) -> Exchange:
    """A poem of four lines, or a haiku of three."""
    kind = "haiku" if rng.random() < 0.25 else "poem"
    topic, text = _verse(rng, "haiku" if kind == "haiku" else "poems")
    request = (
        f"[Write a {kind} about {topic}.|Write a short {kind} about {topic}.|Tell me a {kind} about {topic}.|"
        f"Can you write a {kind} about {topic}?|A {kind} about {topic}, please.|Write a {kind}.|Tell me a {kind}.]"
    )
    return Exchange(expand(rng, request), text, "")
