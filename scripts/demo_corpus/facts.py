"""Simple facts: tables of what is known, and the wordings of the questions about it.

Knows nothing about chats.
"""

from __future__ import annotations

import functools
import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import TEXTS, expand, with_article


@functools.cache
def read_facts() -> tuple[tuple[tuple[str, ...], tuple[str, ...], str, tuple[tuple[str, ...], ...]], ...]:
    """The tables of texts/facts.txt: (column names, question templates, answer template, rows).

    A block is a line `columns: a b`, lines `Q ...`, one line `A ...`, then rows `x; y`. The last column is what a
    right answer must contain.
    """
    tables = []
    for block in (TEXTS / "facts.txt").read_text(encoding="utf-8").strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        if not lines:
            continue
        columns = tuple(lines[0].removeprefix("columns: ").split())
        questions = tuple(line[2:] for line in lines if line.startswith("Q "))
        answers = [line[2:] for line in lines if line.startswith("A ")]
        body = " ".join(line for line in lines[1:] if not line.startswith(("Q ", "A ")))
        rows = tuple(tuple(cell.strip() for cell in row.split(";")) for row in body.split("/") if row.strip())
        wrong = [row for row in rows if len(row) != len(columns)]
        if wrong or len(answers) != 1 or not questions:
            raise ValueError(f"texts/facts.txt: {columns}: {wrong or 'needs Q lines and one A line'}")
        tables.append((columns, questions, answers[0], rows))
    return tuple(tables)


def from_table(rng: random.Random) -> Exchange:
    """A row of one table as question and answer; tables count by the square root of their rows."""
    tables = read_facts()
    columns, questions, answer, rows = rng.choices(tables, [len(table[3]) ** 0.5 for table in tables])[0]
    row = rng.choice(rows)
    slots = dict(zip(columns, row, strict=True))
    return Exchange(expand(rng, rng.choice(questions), slots), expand(rng, answer, slots), row[-1])


def statement(rng: random.Random) -> str:
    """The answer of a row alone, as a sentence of a text."""
    return from_table(rng).answer


def _after_and_before(rng: random.Random) -> Exchange:
    kind, names = rng.choice((("day", words.DAYS), ("month", words.MONTHS), ("season", words.SEASONS)))
    at = rng.randrange(len(names))
    here, after, before = names[at], names[(at + 1) % len(names)], names[at - 1]
    if rng.random() < 0.6:
        question = expand(
            rng,
            "[Which {kind} comes after|What comes after|What {kind} comes after|What {kind} is after] {here}?",
            {"kind": kind, "here": here},
        )
        return Exchange(question, f"{after} comes after {here}.", after)
    question = expand(
        rng,
        "[Which {kind} comes before|What comes before|What {kind} is before] {here}?",
        {"kind": kind, "here": here},
    )
    return Exchange(question, f"{before} comes before {here}.", before)


def _tomorrow(rng: random.Random) -> Exchange:
    at = rng.randrange(7)
    today, tomorrow, yesterday = words.DAYS[at], words.DAYS[(at + 1) % 7], words.DAYS[at - 1]
    if rng.random() < 0.5:
        question = expand(
            rng,
            "[Today is {x}. What|If today is {x}, what|Today is {x}. Which day] is tomorrow?",
            {"x": today},
        )
        return Exchange(question, f"Tomorrow is {tomorrow}.", tomorrow)
    question = expand(
        rng,
        "[Today is {x}. What|If today is {x}, what|Today is {x}. Which day] was yesterday?",
        {"x": today},
    )
    return Exchange(question, f"Yesterday was {yesterday}.", yesterday)


def _ordinal(rng: random.Random) -> Exchange:
    kind, names = rng.choice((("day of the week", words.DAYS), ("month of the year", words.MONTHS[:10])))
    at = rng.randrange(len(names))
    question = expand(rng, "[Which is|What is] the {nth} {kind}?", {"nth": words.ORDINALS[at], "kind": kind})
    return Exchange(question, f"The {words.ORDINALS[at]} {kind} is {names[at]}.", names[at])


def _letters(rng: random.Random) -> Exchange:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    at = rng.randrange(25)
    if rng.random() < 0.6:
        question = expand(rng, "[Which letter comes after|What comes after] {x}?", {"x": alphabet[at]})
        return Exchange(question, f"{alphabet[at + 1]} comes after {alphabet[at]}.", alphabet[at + 1])
    question = expand(rng, "[Which letter comes before|What comes before] {x}?", {"x": alphabet[at + 1]})
    return Exchange(question, f"{alphabet[at]} comes before {alphabet[at + 1]}.", alphabet[at])


def _bigger(rng: random.Random) -> Exchange:
    small, big = sorted(rng.sample(range(len(words.BY_SIZE)), 2))
    if big - small < 3:
        return _bigger(rng)
    first, second = rng.sample((words.BY_SIZE[small], words.BY_SIZE[big]), 2)
    word = rng.choice(("bigger", "smaller"))
    right, wrong = (
        (words.BY_SIZE[big], words.BY_SIZE[small])
        if word == "bigger"
        else (words.BY_SIZE[small], words.BY_SIZE[big])
    )
    question = expand(
        rng,
        "[Which is {w}, {a x} or {a y}?|Which animal is {w}, {a x} or {a y}?|What is {w}, {a x} or {a y}?]",
        {"w": word, "x": first, "y": second},
    )
    return Exchange(
        question, expand(rng, "{A x} is {w} than {a y}.", {"w": word, "x": right, "y": wrong}), right
    )


@functools.cache
def _about() -> dict[str, list[tuple[str, dict[str, str]]]]:
    """For every animal and country, the answers that tell something about it, with their slots."""
    found: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for columns, _, answer, rows in read_facts():
        if columns[0] in ("animal", "country") and not answer.startswith("{capital}"):
            for row in rows:
                found.setdefault(row[0], []).append((answer, dict(zip(columns, row, strict=True))))
    return found


def _tell_about(rng: random.Random) -> Exchange:
    """Everything the tables say of one animal or country."""
    name = rng.choice(list(_about()))
    answers = _about()[name]
    is_animal = "animal" in answers[0][1]
    shown = pick(rng, with_article(name), words.plural(name)) if is_animal else name
    question = expand(
        rng, f"[Tell me about {shown}.|What do you know about {shown}?|Tell me something about {shown}.]"
    )
    text = " ".join(expand(rng, answer, slots) for answer, slots in answers)
    return Exchange(question, text, text)


def exchange(rng: random.Random) -> Exchange:
    """Any simple fact."""
    skills = (from_table, _after_and_before, _tomorrow, _ordinal, _letters, _bigger, _tell_about)
    return rng.choices(skills, (24, 3, 2, 1, 2, 2, 4))[0](rng)


def page(rng: random.Random) -> str:
    """A few facts as a plain text."""
    return " ".join(statement(rng) for _ in range(rng.randint(1, 6)))
