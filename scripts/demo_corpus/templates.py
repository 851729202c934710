"""A small language for text with choices, so that the corpus is written as prose and not as code.

    [a|b|c]      one of the alternatives, chosen at random; they nest, and may be empty
    {hero}       the value of a slot        {Hero}    the same with a capital
    {a thing}    the value with its article {A thing} the same with a capital

A plot file has lines `@slot = template` that choose a value once, lines `? ...` that are left out half of the
time, and blank lines between paragraphs. A talk file has blocks of `U ...` and `A ...` lines.

Knows nothing about what the text says.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"

Part = str | tuple[str, str] | list["Parts"]
"""Plain text, a slot as (article, name), or the alternatives of a choice."""
Parts = tuple[Part, ...]

_TOKEN = re.compile(r"\[|\]|\||\{(?:([aA]) )?(\w+)\}|[^\[\]|{}]+")


@functools.cache
def parse(template: str) -> Parts:
    """The parts of a template; cached, because each is expanded thousands of times."""
    stack: list[list[list[Part]]] = [[[]]]
    position = 0
    while position < len(template):
        match = _TOKEN.match(template, position)
        if match is None:
            raise ValueError(f"cannot read {template[position : position + 20]!r} in {template!r}")
        position = match.end()
        text = match.group()
        if text == "[":
            stack.append([[]])
        elif text == "]":
            if len(stack) == 1:
                raise ValueError(f"']' without '[' in {template!r}")
            choice: list[Parts] = [tuple(parts) for parts in stack.pop()]
            stack[-1][-1].append(choice)
        elif text == "|" and len(stack) > 1:
            stack[-1].append([])
        elif text.startswith("{"):
            stack[-1][-1].append((match.group(1) or "", match.group(2)))
        else:
            stack[-1][-1].append(text)
    if len(stack) != 1:
        raise ValueError(f"'[' without ']' in {template!r}")
    return tuple(stack[0][0])


def capital(text: str) -> str:
    """The text with its first letter in upper case; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """ "a fox", "an owl"; by spelling, which is enough for the words used here."""
    vowel = noun[:1].lower() in "aeiou" and not noun.startswith(("uni", "use", "one"))
    return f"{'an' if vowel else 'a'} {noun}"


def _fill(rng: random.Random, parts: Parts, slots: Mapping[str, str], out: list[str]) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, list):
            _fill(rng, part[int(rng.random() * len(part))], slots, out)
        else:
            article, name = part
            value = slots[name] if name in slots else slots[name[0].lower() + name[1:]]
            if article:
                value = with_article(value)
            out.append(capital(value) if article == "A" or name[0].isupper() else value)


def expand(rng: random.Random, template: str, slots: Mapping[str, str] | None = None) -> str:
    """One text of a template."""
    out: list[str] = []
    _fill(rng, parse(template), slots or {}, out)
    return "".join(out)


def expand_plot(rng: random.Random, lines: Iterable[str], slots: dict[str, str]) -> str:
    """One story of a plot's lines; the slots that the plot sets are added to `slots`."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("@"):
            name, _, template = line[1:].partition("=")
            slots[name.strip()] = expand(rng, template.strip(), slots)
        elif not line:
            paragraphs.append([])
        elif not line.startswith("? ") or rng.random() < 0.5:
            text = expand(rng, line.removeprefix("? "), slots).strip()
            if text:
                paragraphs[-1].append(text)
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


@functools.cache
def read_plot(name: str) -> tuple[str, ...]:
    """The lines of texts/plots/NAME.txt."""
    return tuple((TEXTS / "plots" / f"{name}.txt").read_text(encoding="utf-8").strip().split("\n"))


@functools.cache
def read_plots(name: str) -> tuple[tuple[str, ...], ...]:
    """The plots of texts/NAME.txt, which are short and stand in one file."""
    blocks = (TEXTS / f"{name}.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return tuple(tuple(block.split("\n")) for block in blocks)


@functools.cache
def read_talk(name: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """The blocks of texts/NAME.txt, each as (what a person may say, what the model may answer)."""
    blocks = []
    for block in (TEXTS / f"{name}.txt").read_text(encoding="utf-8").strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        asked = tuple(line[2:] for line in lines if line.startswith("U "))
        answered = tuple(line[2:].replace("\\n", "\n") for line in lines if line.startswith("A "))
        if len(asked) + len(answered) != len(lines) or (lines and not (asked and answered)):
            raise ValueError(f"texts/{name}.txt: a block needs U and A lines only: {block!r}")
        if lines:
            blocks.append((asked, answered))
    return tuple(blocks)
