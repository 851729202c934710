"""What is said of one value: a schema and all that apply in place, through `allOf`, `anyOf`, `oneOf` and `$ref`.

Knows nothing about how a schema is written.
"""

from __future__ import annotations

import math

from runner.errors import BadGrammar
from runner.schemas.keywords import IN_PLACE
from runner.schemas.references import Document, Place
from runner.schemas.values import MAX_DIGITS, MAX_MULTIPLE, Unsupported, behind, digits, finite

# A tree is walked for each value, and trees share branches: this bounds all walks of a schema together.
MAX_STEPS = 200_000
# llguidance recurses over a chain of references, and its stack ends at about a thousand.
MAX_DEPTH = 100
# Its time grows with the square of an object's keys (0.2 s), its stack with their number (it ends before 50,000).
MAX_KEYS = 4_000
# To learn whether any string has them all, it intersects the patterns: 20 take 2 s and 250 MB, 10 a millisecond.
MAX_PATTERNS = 8
# Each constant is intersected with them too.
MAX_CONSTANTS_WITH_PATTERN = 1_000


class Trees:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.steps = 0
        self._patterns: dict[tuple[int, str], int] = {}

    def of(self, place: Place) -> list[Place]:
        """In the order of the text, each place once. A place that applies to itself is an error: it never ends."""
        found: dict[tuple[int, str], Place] = {}
        self._collect(place, found, set(), 0)
        return list(found.values())

    def _collect(
        self, place: Place, found: dict[tuple[int, str], Place], path: set[tuple[int, str]], depth: int
    ) -> None:
        self.steps += 1
        if place.key in path:
            raise BadGrammar(f'"$ref" at {place.where} comes back to itself and accepts nothing')
        if self.steps > MAX_STEPS:
            raise BadGrammar("its allOf, anyOf, oneOf and $ref are too many; send a smaller schema")
        if depth > MAX_DEPTH:
            raise too_deep(place)
        if place.key in found or not isinstance(place.value, dict):
            return
        found[place.key] = place
        path.add(place.key)
        for child in self.applied(place):
            self._collect(child, found, path, depth + 1)
        path.remove(place.key)

    def applied(self, place: Place) -> list[Place]:
        """The schemas that apply in place, one step further."""
        value = place.value
        assert isinstance(value, dict)
        if self.document.stands_alone(value):
            return [self.document.target(place)]
        inside: list[Place] = []
        for keyword in value:
            if keyword == "$ref":
                inside.append(self.document.target(place))
            elif keyword in IN_PLACE:
                inside += self.branches(place, keyword)
        return inside

    def branches(self, place: Place, keyword: str) -> list[Place]:
        assert isinstance(place.value, dict)
        listed = place.value[keyword]
        if not isinstance(listed, list) or not listed:
            raise BadGrammar(f'"{keyword}" at {place.where} must be a list of at least one schema')
        return [self.document.child(place, keyword, index) for index in range(len(listed))]

    def patterns(self, place: Place) -> int:
        """How many a string must have at once, at most: of anyOf and oneOf it takes one branch."""
        value = place.value
        if not isinstance(value, dict):
            return 0
        if place.key not in self._patterns:
            own = sum(keyword in value for keyword in ("pattern", "format"))
            one_of = [
                [self.patterns(branch) for branch in self.branches(place, keyword)]
                for keyword in ("anyOf", "oneOf")
                if keyword in value and not self.document.stands_alone(value)
            ]
            others = [child for child in self.applied(place) if not child.pointer.startswith(_options(place))]
            total = own + sum(map(max, one_of)) + sum(map(self.patterns, others))
            self._patterns[place.key] = total
        return self._patterns[place.key]

    def check_size(self, place: Place, around: list[Place]) -> None:
        """What the compiler would need too long for, or break at."""
        keys = sum(
            len(_sized(value, "properties")) + len(_sized(value, "required")) for value in values(around)
        )
        if keys > MAX_KEYS:
            raise BadGrammar(f"{place.where} names {keys:,} keys; the limit is {MAX_KEYS:,}")
        if (count := self.patterns(place)) > MAX_PATTERNS:
            raise BadGrammar(f"{place.where} has {count} patterns of one string; the limit is {MAX_PATTERNS}")
        limited = any(
            {"pattern", "format", "minLength", "maxLength"} & value.keys() for value in values(around)
        )
        constants = sum(len(_sized(value, "enum")) for value in values(around))
        if limited and constants > MAX_CONSTANTS_WITH_PATTERN:
            raise BadGrammar(
                f"{place.where} has {constants:,} constants beside a pattern, a format or a length; "
                f"the limit is {MAX_CONSTANTS_WITH_PATTERN:,}"
            )


def _options(place: Place) -> tuple[str, str]:
    return place.at("anyOf") + "/", place.at("oneOf") + "/"


def _sized(value: dict[str, object], keyword: str) -> dict[str, object] | list[object]:
    inside = value.get(keyword)
    return inside if isinstance(inside, dict | list) else []


def too_deep(place: Place) -> BadGrammar:
    return BadGrammar(f"{place.where} is more than {MAX_DEPTH} schemas deep, references followed")


def values(tree: list[Place]) -> list[dict[str, object]]:
    return [place.value for place in tree if isinstance(place.value, dict)]


def other_keys_are_told(tree: list[Place]) -> bool:
    """Whether a schema itself says which keys stand beside its `properties`."""
    told = ("additionalProperties", "patternProperties", "unevaluatedProperties")
    return any(keyword in value for value in values(tree) for keyword in told)


def names(tree: list[Place]) -> dict[str, object]:
    """Every key that is named, in order; nothing is asked of its value here."""
    named: dict[str, object] = {}
    for value in values(tree):
        properties, required = value.get("properties"), value.get("required")
        named.update(dict.fromkeys(properties, True) if isinstance(properties, dict) else {})
        named.update(
            {key: True for key in required if isinstance(key, str)} if isinstance(required, list) else {}
        )
    return named


def check_multiples(tree: list[Place]) -> None:
    """Several `multipleOf` of one value become their least common multiple, which has the limit of one."""
    known = [value["multipleOf"] for value in values(tree) if "multipleOf" in value]
    numbers = [exact for exact in known if finite(exact) and 0 < exact < 1e15]
    if len(numbers) < 2:
        return
    places = max(behind(exact) for exact in numbers)
    if places > MAX_DIGITS or math.lcm(*(digits(exact, places) for exact in numbers)) > MAX_MULTIPLE:
        raise Unsupported(
            "multipleOf", "stands several times, and their common multiple has more than five digits"
        )
