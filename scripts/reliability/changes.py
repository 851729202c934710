"""Changes by chance: of JSON values, and of bytes.

Knows nothing about what they are done to.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

CHANGES_AT_ONCE = (1, 1, 1, 2, 3, 4)  # one as often as several: most inputs are refused for the first
NUMBERS: tuple[Any, ...] = (
    0, -0.0, 1, -1, 2, 3, 7, 64, 255, 256, 257, 299, 300, 301, 511, 512, 513, 1000, 4096, 65_535, 65_536,
    2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**40,
    0.5, 1.5, 1e-45, 1e-9, 1e9, 1e30, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "x", "5", "null", "true", "\0", "\n", "\r\n", "\ud800", "\udfff", "\ufffe", "\ufeff", "é", "日本",
    "🙂", "e\u0301", "<|end|>", "<|begin|>", "../../etc/passwd", "/etc/passwd", "a" * 1000, "日" * 300,
    "(a+)+$", "[", "\\", '"', "'", "%s%n", "${x}", "{}", "[]", "__proto__", "weight", "F32", "I64", "length",
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"type": "x"})
JUNK = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u", b"1e999",
    b"NaN", b"-", b"\r\n", b" " * 1000, b"[" * 3000, b'{"a":' * 3000, b"9" * 5000,
)  # fmt: skip

Place = tuple[Any, Any]
"""A container, and where in it a value stands."""


def value(chance: random.Random) -> Any:
    kind = chance.random()
    if kind < 0.45:
        return chance.choice(NUMBERS)
    if kind < 0.8:
        return chance.choice(TEXTS)
    if kind < 0.95:
        return copy.deepcopy(chance.choice(OTHERS))
    return nested(chance.choice((10, 100, 129, 1000)), chance.random() < 0.5)


def nested(depth: int, is_list: bool) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner] if is_list else {"a": inner}
    return inner


def changed(chance: random.Random, json_value: Any) -> Any:
    """A copy with one change or several."""
    made = [copy.deepcopy(json_value)]  # in a list, so that the whole has a place, too
    for _ in range(chance.choice(CHANGES_AT_ONCE)):
        chance.choice(CHANGES)(chance, made)
    return made[0]


def _replace(chance: random.Random, made: Any) -> None:
    container, key = chance.choice(list(_places(made)))
    container[key] = value(chance)


def _near(chance: random.Random, made: Any) -> None:
    """A number becomes one beside it, or a multiple."""
    numbers = [place for place in _places(made) if type(place[0][place[1]]) in (int, float)]
    if numbers:
        container, key = chance.choice(numbers)
        container[key] = chance.choice(
            (container[key] + 1, container[key] - 1, -container[key], container[key] * 2, container[key] / 2)
        )


def _remove(chance: random.Random, made: Any) -> None:
    container, key = chance.choice(list(_places(made)))
    if container is not made:
        del container[key]


def _add(chance: random.Random, made: Any) -> None:
    container, key = chance.choice(list(_places(made)))
    inner = container[key]
    if isinstance(inner, dict):
        inner[chance.choice((*TEXTS, *inner))] = value(chance)
    elif isinstance(inner, list):
        inner.insert(chance.randint(0, len(inner)), value(chance))


def _move(chance: random.Random, made: Any) -> None:
    """Two values change places."""
    places = list(_places(made))
    (one, here), (other, there) = chance.choice(places), chance.choice(places)
    one[here], other[there] = copy.deepcopy(other[there]), copy.deepcopy(one[here])


def _rename(chance: random.Random, made: Any) -> None:
    places = [place for place in _places(made) if isinstance(place[0], dict)]
    if places:
        container, key = chance.choice(places)
        new = chance.choice((key.upper(), key.lower(), key + "s", chance.choice(TEXTS)))
        container[new] = container.pop(key)


CHANGES: tuple[Callable[[random.Random, Any], None], ...] = (
    _replace,
    _replace,
    _near,
    _remove,
    _add,
    _move,
    _rename,
)


def _places(whole: Any) -> Iterator[Place]:
    waiting = [whole]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            yield container, key
            if isinstance(container[key], dict | list):
                waiting.append(container[key])


def spelled(json_value: Any) -> bytes:
    """As JSON, or what Python takes for it: NaN and lone surrogates included."""
    return json.dumps(json_value).encode()


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Bytes that were flipped, cut, doubled, left out or put in."""
    made = bytearray(data)
    for _ in range(chance.choice(CHANGES_AT_ONCE)):
        at = chance.randint(0, len(made))
        match chance.randrange(6):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at:]
            case 2:
                del made[at : at + chance.randint(1, 16)]
            case 3:
                made[at:at] = chance.choice(JUNK)
            case 4:
                made[at:at] = made[at : at + chance.randint(1, 64)]
            case 5 if at < len(made):
                made[at] = chance.randrange(256)
    return bytes(made)


def json_bytes(chance: random.Random, json_value: Any) -> bytes:
    """A changed value as JSON, now and then with damaged bytes, too."""
    try:
        data = spelled(changed(chance, json_value))
    except (RecursionError, ValueError):
        data = spelled(json_value)
    return damaged(chance, data) if chance.random() < 0.25 else data
