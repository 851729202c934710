"""JSON schemas drawn by chance: those that people write, of every kind of keyword that a grammar keeps.

A schema is a function of a seed and of its number. Some value is valid under each: bounds leave room, patterns and
lengths agree, what refers to itself may end. Patterns mean the same in Python's expressions as in JavaScript's,
since a validator in Python judges the answers.

Knows nothing about grammars or models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Schema = dict[str, Any]
Maker = Callable[["Drawing", int], Schema]
Item = TypeVar("Item")

DEPTH = 3
NAMES = (
    *("id", "name", "age", "price", "tags", "größe", "名前", "город", "naïve", "has space", "a/b~c"),
    *('a "quote"', "back\\slash", "🙂", "e\u0301", "line\nbreak", "$ref"),
)
WORDS = (
    *("red", "green", "grün", "青", "синий", "two words", 'in "quotes"', "🙂🙃", "👩‍👩‍👧", "", " "),
    *("line\nbreak", "tab\t", "c:\\dir", "</end>", "null", "12", "{}", "e\u0301", "<|user|>"),
)
PATTERNS = (
    *("^[A-Z]{2}-[0-9]{3}$", "^#[0-9a-f]{6}$", "^(yes|no|maybe)$", "^[a-zäöü]{1,8}$", "^[^,]+, [^,]+$"),
    *("^v[0-9]+[.][0-9]+$", "^[一-龥]{1,3}$", "[0-9]", "^a", "z$", "^$|^[a-f]+$", "^(ab|cd)*$"),
)
SEARCHED = ("[0-9]", "^a", "z$")  # patterns that suit every length from 2 on
KEY_PATTERNS = ("^k[0-9]$", "^[a-z]{1,4}$", "^(left|right)_")
FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid")
CONSTANTS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -7,
    12.5,
    1e-3,
    [],
    {},
    [1, "a", None],
    {"a": [True], "größe": 0.5},
)


def drawn(seed: int, number: int) -> Schema:
    """One schema, with its definitions."""
    drawing = Drawing(random.Random(f"{seed}/{number}"))
    root = drawing.chance.choices(ROOTS, ROOT_WEIGHTS)[0](drawing, DEPTH)
    return root | ({"$defs": drawing.definitions} if drawing.definitions else {})


class Drawing:
    """One schema under way. definitions: those that its references name."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.definitions: dict[str, Schema] = {}

    def value(self, depth: int) -> Schema:
        """Any value; plain ones where no depth is left."""
        makers, weights = (NESTED, NESTED_WEIGHTS) if depth > 0 else (PLAIN, [1] * len(PLAIN))
        return self.chance.choices(makers, weights)[0](self, depth - 1)

    def plain(self) -> Schema:
        return self.value(0)

    def maybe(self, share: float) -> bool:
        return self.chance.random() < share

    def some(self, among: Sequence[Item], least: int, most: int) -> list[Item]:
        """Different ones, in any order."""
        return self.chance.sample(among, self.chance.randint(least, most))

    def named(self, depth: int, names: Sequence[str]) -> dict[str, Schema]:
        return {name: self.value(depth) for name in names}


# --- values without parts --------------------------------------------------------------------------------


def string(drawing: Drawing, _depth: int) -> Schema:
    chance = drawing.chance
    least = chance.randint(2, 6)
    bounds = {"minLength": least, "maxLength": least + chance.randint(0, 20)}
    keywords: list[Schema] = [
        {},
        bounds,
        {name: bounds[name] for name in drawing.some(["minLength", "maxLength"], 1, 1)},
        {"pattern": chance.choice(PATTERNS)},
        {"pattern": chance.choice(SEARCHED)} | bounds,
        {"format": chance.choice(FORMATS)},
        {"allOf": [{"minLength": least}, {"pattern": chance.choice(SEARCHED)}]},
    ]
    return {"type": "string"} | chance.choice(keywords)


def number(drawing: Drawing, _depth: int) -> Schema:
    """Between its bounds lie a dozen multiples at least."""
    chance = drawing.chance
    kind = chance.choice(["integer", "number"])
    low: float = chance.randint(-60, 60)
    high = low + chance.choice([12, 100, 5000])
    multiple: float = chance.choice([1, 2, 3, 7, 10] if kind == "integer" else [0.01, 0.1, 0.25, 0.5, 1, 3])
    if multiple > 1:
        high += 12 * multiple
    if kind == "number" and drawing.maybe(0.4):
        low, high = low + 0.5, high + 0.125
    keywords = {
        chance.choice(["minimum", "exclusiveMinimum"]): low,
        chance.choice(["maximum", "exclusiveMaximum"]): high,
    }
    if drawing.maybe(0.3):
        keywords = {name: keywords[name] for name in drawing.some(list(keywords), 0, 1)}
    if drawing.maybe(0.4):
        keywords["multipleOf"] = multiple
    return {"type": kind} | keywords


def between(drawing: Drawing, _depth: int) -> Schema:
    low = drawing.chance.randint(-9, 9)
    return {"type": "integer", "allOf": [{"minimum": low}, {"maximum": low + drawing.chance.randint(0, 40)}]}


def switch(_drawing: Drawing, _depth: int) -> Schema:
    return {"type": "boolean"}


def several_types(drawing: Drawing, _depth: int) -> Schema:
    return {"type": drawing.some(["null", "boolean", "integer", "number", "string"], 2, 3)}


def listed(drawing: Drawing, _depth: int) -> Schema:
    among: Sequence[Any] = WORDS if drawing.maybe(0.7) else [*WORDS, *CONSTANTS]
    return {"enum": drawing.some(among, 1, 6)}


def constant(drawing: Drawing, _depth: int) -> Schema:
    return {"const": drawing.chance.choice([*CONSTANTS, *WORDS])}


# --- values with parts -----------------------------------------------------------------------------------


def record(drawing: Drawing, depth: int) -> Schema:
    """An object of named keys, some of them required."""
    names = drawing.some(NAMES, 1, 5)
    made: Schema = {"type": "object", "properties": drawing.named(depth, names)}
    if required := [name for name in names if drawing.maybe(0.6)]:
        made["required"] = required
    if drawing.maybe(0.4):
        made["additionalProperties"] = drawing.plain() if drawing.maybe(0.5) else False
    return made


def mapping(drawing: Drawing, depth: int) -> Schema:
    """An object of any keys, or of those that a pattern allows."""
    value = drawing.value(depth)
    if drawing.maybe(0.4):
        patterns = {drawing.chance.choice(KEY_PATTERNS): value}
        return {"type": "object", "patternProperties": patterns, "additionalProperties": False}
    counts = drawing.chance.choice([{}, {"minProperties": 1}, {"maxProperties": 3}])
    return {"type": "object", "additionalProperties": value} | counts


def array(drawing: Drawing, depth: int) -> Schema:
    least = drawing.chance.randint(0, 3)
    bounds = {"minItems": least, "maxItems": least + drawing.chance.randint(0, 3)}
    kept = {name: bounds[name] for name in drawing.some(list(bounds), 0, 2)}
    return {"type": "array", "items": drawing.value(depth)} | kept


def row(drawing: Drawing, depth: int) -> Schema:
    """An array whose first items have schemas of their own."""
    first = [drawing.value(depth) for _ in range(drawing.chance.randint(1, 3))]
    rest: Schema | bool = drawing.plain() if drawing.maybe(0.4) else False
    made: Schema = {"type": "array", "prefixItems": first, "items": rest}
    if drawing.maybe(0.7):
        made["minItems"] = len(first)
    if rest is not False:
        made["maxItems"] = len(first) + 2
    return made


def any_of(drawing: Drawing, depth: int) -> Schema:
    return {"anyOf": [drawing.value(depth) for _ in range(drawing.chance.randint(2, 3))]}


def one_of(drawing: Drawing, depth: int) -> Schema:
    """Branches that exclude one another: by their types, or by a constant of one key."""
    if drawing.maybe(0.5):
        return {"oneOf": drawing.some([string(drawing, 0), number(drawing, 0), array(drawing, depth)], 2, 3)}
    kinds = drawing.some(("circle", "квадрат", "line"), 2, 3)
    return {"oneOf": [_tagged(drawing, kind, depth) for kind in kinds]}


def _tagged(drawing: Drawing, kind: str, depth: int) -> Schema:
    own = drawing.chance.choice(NAMES)
    properties = {"kind": {"const": kind}, own: drawing.value(depth)}
    return {"type": "object", "properties": properties, "required": ["kind", own]}


def all_of(drawing: Drawing, depth: int) -> Schema:
    """A shared record and keys of its own."""
    own = drawing.some(NAMES, 1, 2)
    mine = {"type": "object", "properties": drawing.named(depth, own), "required": own[:1]}
    made: Schema = {"allOf": [_reference(drawing, "point", depth), mine]}
    return made | ({"unevaluatedProperties": False} if drawing.maybe(0.3) else {})


def reference(drawing: Drawing, depth: int) -> Schema:
    return _reference(drawing, drawing.chance.choice(list(DEFINITIONS)), depth)


def _reference(drawing: Drawing, name: str, depth: int) -> Schema:
    if name not in drawing.definitions:
        drawing.definitions[name] = {}  # its place, for references inside
        drawing.definitions[name] = DEFINITIONS[name](drawing, depth)
    return {"$ref": f"#/$defs/{name}"}


def _point(_drawing: Drawing, _depth: int) -> Schema:
    axes = {axis: {"type": "integer", "minimum": -99, "maximum": 99} for axis in "xy"}
    return {"type": "object", "properties": axes, "required": ["x", "y"]}


def _tree(drawing: Drawing, _depth: int) -> Schema:
    children = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}
    properties = {"value": drawing.plain(), "children": children}
    return {"type": "object", "properties": properties, "required": ["value"], "additionalProperties": False}


def _chain(drawing: Drawing, _depth: int) -> Schema:
    following = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/chain"}]}
    properties = {"item": drawing.plain(), "next": following}
    return {"type": "object", "properties": properties, "required": ["item", "next"]}


DEFINITIONS: dict[str, Maker] = {"word": string, "point": _point, "tree": _tree, "chain": _chain}
PLAIN: tuple[Maker, ...] = (string, string, number, number, between, switch, several_types, listed, constant)
COMPOUND: tuple[Maker, ...] = (record, mapping, array, row, any_of, one_of, all_of, reference)
NESTED = (*PLAIN, *COMPOUND)
NESTED_WEIGHTS = [*([1] * len(PLAIN)), *([2] * len(COMPOUND))]
ROOTS = (record, *COMPOUND, *PLAIN)
ROOT_WEIGHTS = [30, *([3] * len(COMPOUND)), *([1] * len(PLAIN))]
