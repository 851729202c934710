"""Where the subschemas of a JSON schema stand, and what a `$ref` names.

A reference names a place by a JSON pointer, by an anchor, or by the `$id` of a schema inside the document.
Nothing is ever fetched: what is not in the document is refused.

Knows nothing about what keywords demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from runner.errors import BadGrammar

# Real schemas have a few hundred. The compiler stops at 50,000 of its own steps, and makes several of a node.
MAX_NODES = 10_000

ONE = frozenset(
    {"additionalProperties", "additionalItems", "items", "contains", "not", "if", "then", "else"}
    | {"propertyNames", "unevaluatedItems", "unevaluatedProperties"}
)
SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

# Up to draft 7 a `$ref` stands alone: its neighbours are ignored.
LONELY = ("draft-04", "draft-06", "draft-07")


@dataclass(frozen=True)
class Place:
    """One schema: its value, its pointer for messages, and the URI that its references start from."""

    value: object
    pointer: str
    base: str

    def at(self, *steps: str | int) -> str:
        return self.pointer + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)

    @property
    def where(self) -> str:
        """For messages."""
        if len(self.pointer) > 120:
            return f"{self.pointer[:60]}...{self.pointer[-60:]}"
        return self.pointer or "the root"

    @property
    def key(self) -> tuple[int, str]:
        return id(self.value), self.base


class Document:
    """A whole schema, its places walked once."""

    def __init__(self, root: dict[str, object]) -> None:
        declared = root.get("$schema")
        self.dialect = declared if isinstance(declared, str) else ""
        self.lonely = any(draft in self.dialect for draft in LONELY)
        self.id_key = "id" if "draft-04" in self.dialect else "$id"
        if "draft-03" in self.dialect:
            raise BadGrammar(f'"$schema" is {self.dialect}; the oldest supported draft is 4')
        self.has_fractional_bounds = False
        self.resources: dict[str, Place] = {}
        self.anchors: dict[tuple[str, str], Place] = {}
        self.root = self.place(root, "", "")
        self.resources.setdefault("", self.root)
        self._walk()

    def place(self, value: object, pointer: str, base: str) -> Place:
        """A schema, whose `$id` may move the URI that its references start from."""
        name = value.get(self.id_key) if isinstance(value, dict) else None
        if not isinstance(name, str) or name.startswith("#") or self.stands_alone(value):
            return Place(value, pointer, base)
        return Place(value, pointer, self._uri(base, name)[0])

    def stands_alone(self, value: object) -> bool:
        return self.lonely and isinstance(value, dict) and "$ref" in value

    def child(self, parent: Place, *steps: str | int) -> Place:
        value: Any = parent.value
        for step in steps:
            value = value[step]
        return self.place(value, parent.at(*steps), parent.base)

    def _walk(self) -> None:
        waiting, seen = [self.root], 0
        while waiting:
            place = waiting.pop()
            seen += 1
            if seen > MAX_NODES:
                raise BadGrammar(f"the schema has more than {MAX_NODES:,} subschemas; send a smaller one")
            if isinstance(place.value, dict):
                self._note(place, place.value)
                waiting += self.children(place)

    def _note(self, place: Place, value: dict[str, object]) -> None:
        if self.stands_alone(value):
            return
        self.has_fractional_bounds |= any(isinstance(value.get(bound), float) for bound in BOUNDS)
        if place.pointer and value.get("$schema", self.dialect) != self.dialect and self.id_key in value:
            raise BadGrammar(f'"$schema" at {place.where} changes the draft inside of a schema')
        name = value.get(self.id_key)
        if isinstance(name, str) and not name.startswith("#"):
            self.resources.setdefault(place.base, place)
        old_anchor = name[1:] if isinstance(name, str) and name.startswith("#") else None
        named = value.get("$anchor"), value.get("$dynamicAnchor"), old_anchor
        for anchor in named:
            if isinstance(anchor, str):
                self.anchors.setdefault((place.base, anchor), place)

    def children(self, place: Place) -> Iterator[Place]:
        """The schemas directly inside of this one, wherever a keyword's value is a schema."""
        value = place.value
        if not isinstance(value, dict):
            return
        for keyword, inside in value.items():
            if keyword in ONE and isinstance(inside, dict | bool):
                yield self.child(place, keyword)
            elif keyword in SEVERAL and isinstance(inside, list):
                yield from (self.child(place, keyword, index) for index in range(len(inside)))
            elif keyword in NAMED and isinstance(inside, dict):
                schemas = (name for name, schema in inside.items() if isinstance(schema, dict | bool))
                yield from (self.child(place, keyword, name) for name in schemas)

    def target(self, place: Place) -> Place:
        """What the `$ref` of this place names."""
        assert isinstance(place.value, dict)
        reference = place.value["$ref"]
        if not isinstance(reference, str):
            raise BadGrammar(f'"$ref" at {place.where} must be a string')
        uri, fragment = self._uri(place.base, reference)
        found = self.resources.get(uri)
        if found and fragment.startswith("/"):
            found = self._pointed(found, fragment[1:].split("/"))
        elif fragment:
            found = self.anchors.get((uri, fragment))
        if found is None:
            raise BadGrammar(f'"$ref" at {place.where} names {reference!r}, which is not in the schema')
        return found

    def _uri(self, base: str, reference: str) -> tuple[str, str]:
        """The URI without its fragment, and the fragment."""
        try:
            uri, fragment = urldefrag(
                base + reference if reference.startswith("#") else urljoin(base, reference)
            )
        except ValueError as error:
            raise BadGrammar(f"{reference!r} is no URI: {error}") from error
        return uri, unquote(fragment)

    def _pointed(self, place: Place, steps: list[str]) -> Place | None:
        for escaped in steps:
            step = escaped.replace("~1", "/").replace("~0", "~")
            if isinstance(place.value, dict) and step in place.value:
                place = self.child(place, step)
            elif isinstance(place.value, list) and step.isdecimal() and int(step) < len(place.value):
                place = self.child(place, int(step))
            else:
                return None
        return place
