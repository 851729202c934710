"""Small arithmetic: plus, minus, times, divided by, comparisons and little word problems.

One pair of operands in twenty of the two-digit sums is never written into the training text, in any wording, so
that the card can say how far the model calculates and how far it remembers.
Knows nothing about chats.
"""

from __future__ import annotations

import random

from demo_corpus import words
from demo_corpus.exchange import Exchange, pick

TIMES, DIVIDED = "\u00d7", "\u00f7"
SIGN_WORDS = {
    "+": ("plus", "and"),
    "-": ("minus", "take away"),
    TIMES: ("times", "multiplied by"),
    DIVIDED: ("divided by",),
}


def is_held_out(a: int, sign: str, b: int) -> bool:
    """Whether the sum is kept for the test: some of those with two operands above 10."""
    return sign in "+-" and a > 10 and b > 10 and (a * 7 + b * 13 + (3 if sign == "-" else 0)) % 20 == 0


def operands(rng: random.Random, held_out: bool = False) -> tuple[int, str, int, int]:
    """a, sign, b and the result."""
    while True:
        sign = rng.choices(("+", "-", TIMES, DIVIDED), (5, 4, 2, 1))[0]
        if sign == TIMES:
            a, b = rng.randint(0, 12), rng.randint(0, 12)
            result = a * b
        elif sign == DIVIDED:
            b, result = rng.randint(1, 12), rng.randint(0, 12)
            a = b * result
        else:
            top = 100 if held_out else rng.choice((10, 20, 50, 100, 100, 100, 999))
            a, b = rng.randint(0, top), rng.randint(0, top)
            if sign == "-" and a < b and rng.random() < 0.9:
                a, b = b, a
            result = a + b if sign == "+" else a - b
        if is_held_out(a, sign, b) == held_out:
            return a, sign, b, result


def sum_exchange(rng: random.Random, held_out: bool = False) -> Exchange:
    """A sum in one of many wordings."""
    a, sign, b, result = operands(rng, held_out)
    key = str(result)
    kind = rng.random()
    if kind < 0.4:
        shown = {TIMES: pick(rng, TIMES, "*", "x", "*"), DIVIDED: pick(rng, DIVIDED, "/")}.get(sign, sign)
        text = pick(rng, f"{a} {shown} {b}", f"{a} {shown} {b}", f"{a}{shown}{b}")
        question = pick(
            rng,
            f"{text} =",
            f"{text}",
            f"What is {text}?",
            f"{text} = ?",
            f"How much is {text}?",
            f"Calculate {text}.",
            f"{text}?",
            f"What's {text}?",
        )
        return Exchange(question, pick(rng, f"{a} {shown} {b} = {key}", f"{a} {shown} {b} = {key}", key), key)
    word = pick(rng, *SIGN_WORDS[sign], SIGN_WORDS[sign][0])
    left, right = str(a), str(b)
    if kind > 0.85 and max(a, b) <= 100:
        left, right = words.number_word(a), words.number_word(b)
    question = pick(
        rng,
        f"What is {left} {word} {right}?",
        f"How much is {left} {word} {right}?",
        f"{left} {word} {right}",
        f"Can you tell me what {left} {word} {right} is?",
        f"Please calculate {left} {word} {right}.",
        f"What's {left} {word} {right}?",
        f"What do you get for {left} {word} {right}?",
    )
    return Exchange(
        question,
        pick(
            rng,
            f"{a} {SIGN_WORDS[sign][0]} {b} is {key}.",
            f"{a} {SIGN_WORDS[sign][0]} {b} is {key}.",
            f"{key}.",
        ),
        key,
    )


def word_problem(rng: random.Random) -> Exchange:
    """A story of one sentence with a sum in it."""
    thing = rng.choice(words.COUNTABLES)
    name, has, does_he, who = (
        ("I", "have", "do I", "You have")
        if rng.random() < 0.35
        else (person := words.person(rng), "has", f"does {pick(rng, 'she', 'he', person)}", f"{person} has")
    )

    def verb(plain: str, third: str) -> str:
        return plain if name == "I" else third

    while True:
        a, b = rng.randint(2, 40), rng.randint(1, 20)
        if not is_held_out(a, "+", b) and not is_held_out(a, "-", b):
            break
    if rng.random() < 0.5 or a < b:
        result, sign = a + b, "+"
        more = pick(
            rng, verb("get", "gets"), verb("find", "finds"), verb("buy", "buys"), verb("am given", "is given")
        )
        question = f"{name} {has} {a} {thing} and {more} {b} more."
        asked = f"How many {thing} {does_he} have{pick(rng, ' now', '')}?"
    else:
        result, sign = a - b, "-"
        less = pick(rng, verb("give away", "gives away"), verb("lose", "loses"), verb("sell", "sells"))
        question = f"{name} {has} {a} {thing} and {less} {b}."
        asked = pick(rng, f"How many {thing} {does_he} have left?", f"How many {thing} are left?")
    joined = (
        f"If {question[:-1]}, {asked[0].lower()}{asked[1:]}" if rng.random() < 0.3 else f"{question} {asked}"
    )
    return Exchange(
        joined,
        f"{a} {sign} {b} = {result}. {who} {result} {thing}{' left' if sign == '-' else ''}.",
        str(result),
    )


def mixed_exchange(rng: random.Random) -> Exchange:
    """Two signs: times goes first, and brackets go before everything."""
    x, y, z = (rng.randint(1, 10) for _ in range(3))
    times = pick(rng, "*", TIMES)
    text, value, steps = rng.choice(
        (
            (
                f"{x} + {y} {times} {z}",
                x + y * z,
                f"{y} {times} {z} = {y * z}, and {x} + {y * z} = {x + y * z}",
            ),
            (
                f"{x} {times} {y} + {z}",
                x * y + z,
                f"{x} {times} {y} = {x * y}, and {x * y} + {z} = {x * y + z}",
            ),
            (
                f"({x} + {y}) {times} {z}",
                (x + y) * z,
                f"{x} + {y} = {x + y}, and {x + y} {times} {z} = {(x + y) * z}",
            ),
            (f"{x + y} - {x} + {z}", y + z, f"{x + y} - {x} = {y}, and {y} + {z} = {y + z}"),
        )
    )
    question = pick(
        rng, f"What is {text}?", f"{text} =", f"Calculate {text}.", f"{text}", f"How much is {text}?"
    )
    return Exchange(question, f"{steps}.", str(value))


def number_question(rng: random.Random) -> Exchange:
    """Bigger, smaller, even, odd, double, half, next, before, rounded sums of three."""
    a, b = rng.sample(range(101), 2)
    match rng.randrange(8):
        case 0:
            question = pick(
                rng,
                f"Which is bigger, {a} or {b}?",
                f"Which number is bigger: {a} or {b}?",
                f"What is more, {a} or {b}?",
            )
            return Exchange(question, f"{max(a, b)} is bigger than {min(a, b)}.", str(max(a, b)))
        case 1:
            question = pick(
                rng,
                f"Which is smaller, {a} or {b}?",
                f"Which number is smaller: {a} or {b}?",
                f"What is less, {a} or {b}?",
            )
            return Exchange(question, f"{min(a, b)} is smaller than {max(a, b)}.", str(min(a, b)))
        case 2:
            kind = "even" if a % 2 == 0 else "odd"
            question = pick(rng, f"Is {a} even or odd?", f"Is {a} an even or an odd number?")
            return Exchange(question, f"{a} is {kind}.", kind)
        case 3:
            question = pick(rng, f"What is the double of {a}?", f"What is twice {a}?", f"Double {a}.")
            return Exchange(question, f"Twice {a} is {2 * a}.", str(2 * a))
        case 4:
            question = pick(rng, f"What is half of {2 * a}?", f"What is the half of {2 * a}?")
            return Exchange(question, f"Half of {2 * a} is {a}.", str(a))
        case 5:
            question = pick(
                rng,
                f"Which number comes after {a}?",
                f"What comes after {a}?",
                f"What is the next number after {a}?",
            )
            return Exchange(question, f"{a + 1} comes after {a}.", str(a + 1))
        case 6:
            a += 1
            question = pick(rng, f"Which number comes before {a}?", f"What comes before {a}?")
            return Exchange(question, f"{a - 1} comes before {a}.", str(a - 1))
        case _:
            x, y, z = (rng.randint(1, 10) for _ in range(3))
            question = pick(
                rng, f"What is {x} + {y} + {z}?", f"{x} + {y} + {z} =", f"What is {x} plus {y} plus {z}?"
            )
            return Exchange(question, f"{x} + {y} + {z} = {x + y + z}", str(x + y + z))


def number_name(rng: random.Random) -> Exchange:
    """A number in words, or the other way round."""
    n = rng.randint(0, 100)
    if rng.random() < 0.5:
        question = pick(
            rng, f"Write {n} in words.", f"How do you write {n} in words?", f"How do you say {n}?"
        )
        return Exchange(question, words.number_word(n), words.number_word(n))
    name = words.number_word(n)
    return Exchange(
        pick(rng, f"Write {name} as a number.", f"Which number is {name}?", f"Write {name} in digits."),
        str(n),
        str(n),
    )


def exchange(rng: random.Random) -> Exchange:
    """Any of the above."""
    return rng.choices(
        (sum_exchange, word_problem, number_question, number_name, mixed_exchange), (10, 3, 3, 1, 1)
    )[0](rng)


def drill(rng: random.Random) -> str:
    """A page of sums, the densest way to learn them."""
    lines = []
    for _ in range(rng.randint(4, 24) if rng.random() < 0.3 else 1):
        a, sign, b, result = operands(rng)
        lines.append(f"{a} {sign} {b} = {result}")
    return pick(rng, "", "", "Sums\n", "Small sums:\n") + "\n".join(lines)
