"""Chats: exchanges strung together, with system prompts, careless typing and things to remember.

Knows the chat template's tokens; knows nothing about how a skill finds its answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from demo_corpus import (
    counting,
    facts,
    languages,
    lists,
    reading,
    records,
    stories,
    sums,
    talk,
    word_tasks,
    words,
)
from demo_corpus.exchange import Exchange, pick
from demo_corpus.templates import capital

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"

Turn = tuple[str, str]
"""A person's message and the model's answer."""

SKILLS: dict[str, Callable[[random.Random], Exchange]] = {
    "sums": sums.exchange,
    "facts": facts.exchange,
    "talk": talk.exchange,
    "counting": counting.exchange,
    "json": records.exchange,
    "words": word_tasks.exchange,
    "languages": languages.exchange,
    "lists": lists.exchange,
    "reading": reading.exchange,
    "stories": stories.exchange,
    "poems": stories.poem,
}
WEIGHTS = {
    "sums": 24,
    "facts": 20,
    "talk": 14,
    "counting": 6,
    "json": 14,
    "words": 12,
    "languages": 6,
    "lists": 8,
    "reading": 9,
    "stories": 5,
    "poems": 1.5,
}

LOOSE = ("sums", "facts", "talk", "counting", "languages", "lists", "poems")
"""The skills whose answers do not depend on how the question is written: all in small letters, say."""

PLAIN_SYSTEM = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful assistant. Answer in English.",
    "You are the demo model of mlx-runner.",
    "Answer the question.",
    "Be kind and helpful.",
    "You are a small language model.",
)


def careless(rng: random.Random, question: str) -> str:
    """The question as a person may type it: polite, in small letters, or without its last mark."""
    chance = rng.random()
    if chance < 0.05 and question[-1] == ".":
        return (
            f"Please {question[0].lower()}{question[1:]}"
            if not question.startswith(("Please", "I "))
            else question
        )
    if chance < 0.12:
        return question[0].lower() + question[1:]
    if chance < 0.17 and question[-1] in ".?":
        return question[:-1]
    if chance < 0.22 and question[-1] in ".?":
        return question[0].lower() + question[1:-1]
    return question


def turn(rng: random.Random) -> Turn:
    """One question of any skill and its answer."""
    skill = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    one = SKILLS[skill](rng)
    if skill in LOOSE and rng.random() < 0.08:
        return one.question.upper() if rng.random() < 0.1 else one.question.lower().rstrip(".?!"), one.answer
    return careless(rng, one.question), one.answer


def told(rng: random.Random) -> tuple[Turn, Turn]:
    """Something a person tells, and the later question about it."""
    name = words.person(rng)
    color, city, pet = rng.choice(words.PLAIN_COLORS), rng.choice(words.CITIES), rng.choice(words.PETS)
    pet_name, food, age = (
        words.person(rng) if rng.random() < 0.3 else rng.choice(words.PET_NAMES),
        rng.choice(words.FOODS),
        rng.randint(5, 80),
    )
    animal = rng.choice(words.ANIMALS)
    an_animal = words.plural(animal)
    return rng.choice(
        (
            *(
                (
                    (
                        pick(
                            rng,
                            f"My name is {name}.",
                            f"I am {name}.",
                            f"Hello, my name is {name}.",
                            f"Hi, I am {name}!",
                            f"I'm {name}.",
                        ),
                        pick(
                            rng,
                            f"Nice to meet you, {name}!",
                            f"Hello, {name}! How can I help you?",
                            f"Hello, {name}!",
                        ),
                    ),
                    (
                        pick(
                            rng,
                            "What is my name?",
                            "Do you remember my name?",
                            "What's my name?",
                            "Who am I?",
                        ),
                        f"Your name is {name}.",
                    ),
                ),
            )
            * 3,
            (
                (
                    pick(rng, f"My name is {name}. What is your name?", f"I am {name}. Who are you?"),
                    f"Nice to meet you, {name}! I am the demo model of mlx-runner.",
                ),
                (pick(rng, "What is my name?", "Do you remember my name?"), f"Your name is {name}."),
            ),
            (
                (
                    pick(rng, f"My favorite color is {color}.", f"I like the color {color}."),
                    f"{capital(color)} is a beautiful color.",
                ),
                (
                    pick(rng, "What is my favorite color?", "Which color do I like?"),
                    f"Your favorite color is {color}.",
                ),
            ),
            (
                (pick(rng, f"I live in {city}.", f"I come from {city}."), f"{city} is a fine city."),
                (pick(rng, "Where do I live?", "In which city do I live?"), f"You live in {city}."),
            ),
            (
                (f"I have a {pet} named {pet_name}.", f"{pet_name} is a lovely name for a {pet}."),
                (
                    pick(rng, f"What is the name of my {pet}?", f"What is my {pet} called?"),
                    f"Your {pet} is called {pet_name}.",
                ),
            ),
            (
                (pick(rng, f"I am {age} years old.", f"I'm {age} years old."), f"{age} is a good age."),
                (pick(rng, "How old am I?", "What is my age?"), f"You are {age} years old."),
            ),
            (
                (
                    pick(rng, f"I like {food}.", f"My favorite food is {food}."),
                    f"{capital(food)} is very good.",
                ),
                (pick(rng, "What is my favorite food?", "What do I like to eat?"), f"You like {food}."),
            ),
            (
                (f"My favorite animal is the {animal}.", f"I like {an_animal} too."),
                (
                    pick(rng, "What is my favorite animal?", "Which animal do I like?"),
                    f"Your favorite animal is the {animal}.",
                ),
            ),
        )
    )


NOT_TOLD = (
    ("What is my name?", "You have not told me your name."),
    ("Do you know my name?", "No, you have not told me your name."),
    ("Where do I live?", "You have not told me where you live."),
    ("How old am I?", "You have not told me how old you are."),
    ("What is my favorite color?", "You have not told me your favorite color."),
)


def remembering(rng: random.Random) -> list[Turn]:
    """A chat in which something is told and asked for later."""
    first, later = told(rng)
    between = [
        turn(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 5) if rng.random() < 0.97 else (10, 20, 40)))
    ]
    before = [turn(rng)] if rng.random() < 0.3 else []
    after = [turn(rng)] if rng.random() < 0.2 else []
    if rng.random() < 0.25:
        other, other_later = told(rng)
        if other[0][:8] != first[0][:8] and other_later[1][:9] != later[1][:9]:
            return [*before, first, other, *between, *rng.sample([later, other_later], 2), *after]
    return [*before, first, *between, later, *after]


def looking_back(rng: random.Random) -> list[Turn]:
    """A chat whose last question is about the chat itself."""
    turns = [turn(rng) for _ in range(rng.randint(1, 3))]
    turns = [one for one in turns if len(one[1]) < 200] or [("Hello!", "Hello! How can I help you?")]
    match rng.randrange(3):
        case 0:
            turns.append(
                (
                    pick(rng, "What did I just ask?", "What was my last question?"),
                    f"You asked: {turns[-1][0]}",
                )
            )
        case 1:
            turns.append(
                (
                    pick(rng, "What was my first question?", "What did I ask first?"),
                    f"You asked: {turns[0][0]}",
                )
            )
        case _:
            turns.append(
                (
                    pick(
                        rng,
                        "Say that again.",
                        "Repeat your answer.",
                        "Can you repeat that?",
                        "Once more, please.",
                    ),
                    turns[-1][1],
                )
            )
    return turns


def going_on(rng: random.Random) -> list[Turn]:
    """A sum that goes on, or another one of the same kind."""
    while True:
        a, sign, b, result = sums.operands(rng)
        c = rng.randint(1, 10)
        if (
            sign in "+-"
            and 0 <= result <= 90
            and not (sums.is_held_out(result, "+", c) or sums.is_held_out(result, "-", c))
        ):
            break
    word = "plus" if sign == "+" else "minus"
    turns = [(f"What is {a} {word} {b}?", f"{a} {word} {b} is {result}.")]
    if rng.random() < 0.6 or result < c:
        turns.append(
            (
                pick(rng, f"And plus {c}?", f"Now add {c}.", f"Add {c} to that."),
                f"{result} plus {c} is {result + c}.",
            )
        )
    else:
        turns.append(
            (
                pick(rng, f"And minus {c}?", f"Now take away {c}.", f"Subtract {c} from that."),
                f"{result} minus {c} is {result - c}.",
            )
        )
    return turns


def chat(rng: random.Random) -> tuple[str, list[Turn]]:
    """A system prompt, often empty, and the turns."""
    system = rng.choice(PLAIN_SYSTEM) if rng.random() < 0.2 else ""
    kind = rng.random()
    if kind < 0.04:
        system = pick(
            rng,
            "Answer in capital letters.",
            "Always answer in capital letters.",
            "Write everything in uppercase.",
        )
        turns = [
            (asked, answer.upper())
            for asked, answer in (turn(rng) for _ in range(rng.randint(1, 2)))
            if len(answer) < 120
        ]
        return (system, turns) if turns else chat(rng)
    if kind < 0.07:
        system = pick(rng, "You are a pirate.", "Talk like a pirate.", "You are a friendly pirate.")
        skills = (facts.exchange, talk.small_talk, sums.exchange)
        return system, [
            (one.question, f"Arr! {one.answer}")
            for one in (rng.choice(skills)(rng) for _ in range(rng.randint(1, 3)))
        ]
    if kind < 0.12:
        system = pick(
            rng, "Answer in one word.", "Answer with one word only.", "Give very short answers.", "Be brief."
        )
        short = [facts.from_table(rng) for _ in range(rng.randint(1, 3))]
        return system, [(one.question, f"{capital(one.key)}.") for one in short]
    if kind < 0.22:
        return system, remembering(rng)
    if kind < 0.24:
        return system, [rng.choice(NOT_TOLD)]
    if kind < 0.27:
        return system, looking_back(rng)
    if kind < 0.30:
        return system, going_on(rng)
    count = rng.choices((1, 2, 3, 4, 6, 10), (40, 25, 15, 10, 4, 2))[0]
    return system, [turn(rng) for _ in range(count)]


def render(system: str, turns: list[Turn], begin: str = BEGIN) -> str:
    """The text of a whole chat, as the chat template writes it."""
    parts = [begin]
    if system:
        parts += [SYSTEM, system, END]
    for question, answer in turns:
        parts += [USER, question, END, ASSISTANT, answer, END]
    return "".join(parts)


def prompt(question: str, system: str = "") -> str:
    """The text of a chat that waits for the answer to one question, without the first token."""
    return render(system, [], "") + f"{USER}{question}{END}{ASSISTANT}"


def page(rng: random.Random) -> str:
    """Questions and answers without the template: what a bare completion begins with."""
    if rng.random() < 0.6:
        question, answer = turn(rng)
        return f"{question}\n{answer}"
    label, reply = rng.choice((("Question", "Answer"), ("Q", "A"), ("User", "Assistant")))
    pairs = [turn(rng) for _ in range(rng.randint(1, 5))]
    return "\n\n".join(f"{label}: {question}\n{reply}: {answer}" for question, answer in pairs)
