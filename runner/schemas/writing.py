"""Writes a schema anew, from the root on, in keywords that the grammar compiler keeps to the letter.

A schema is written *standalone* where it describes a value of its own: the root, a property, an item. It is written
as a *part* where it applies to the same value as another one; then it must not close an object, since the other may
name more keys. A `$ref` therefore has up to two definitions.

Knows nothing about where a reference leads (references.py) nor how a keyword's value is written (block.py).
"""

from __future__ import annotations

from runner.errors import BadGrammar
from runner.schemas import block, tree
from runner.schemas.branches import exclusive
from runner.schemas.context import Context, Trying
from runner.schemas.keywords import ARRAYS, IN_PLACE, NUMBERS, OBJECTS, REFUSED, STRINGS, VALUES
from runner.schemas.references import Document, Place
from runner.schemas.values import Unsupported

OWN = ("type", *VALUES, *OBJECTS, *ARRAYS, *NUMBERS, *STRINGS)
# What is dear to the compiler, of a whole schema: states for the remainders of `multipleOf` (0.6 s), and pairs of
# keys that are counted or of patterns that are compared (0.6 s).
MAX_SPENT = {
    "multipleOf": 120_000,
    "minProperties": 20_000,
    "maxProperties": 20_000,
    "patternProperties": 20_000,
}
SHORT_ESCAPES = 'nrbtf\\"'


class Writer:
    """unenforced: what was left out, by name. definitions: what the references of the written schema name."""

    def __init__(self, document: Document, lenient: bool, closed: bool) -> None:
        self.document = document
        self.lenient = lenient
        self.closed = closed
        self.trees = tree.Trees(document)
        self.definitions: dict[str, object] = {}
        self.unenforced: dict[str, None] = {}
        self.constants = 0
        self.spent = dict.fromkeys(MAX_SPENT, 0)
        self.needs_code_points: list[str] = []
        self.has_other_names = False
        self._names: dict[tuple[tuple[int, str], bool], str] = {}

    def standalone(self, place: Place, depth: int) -> object:
        """A schema of a value of its own."""
        if depth > tree.MAX_DEPTH:
            raise tree.too_deep(place)
        if not isinstance(place.value, dict):
            return self._boolean(place)
        around = self.trees.of(place)
        self.trees.check_size(place, around)
        with self.trying(place):
            tree.check_multiples(around)
        if self._passes_on(place):
            return self.part(place, depth, Context(alone=True))
        closing = self._closing(place, around)
        context = Context(single=len(around) == 1, closing=closing)
        written = self.part(place, depth, context)
        if closing is not None and len(around) > 1:
            _all_of(written, [{"properties": closing, "additionalProperties": False}])
        return written

    def part(self, place: Place, depth: int, context: Context) -> object:
        """A schema beside others. Its keywords keep their order, but its own stand together."""
        if depth > tree.MAX_DEPTH:
            raise tree.too_deep(place)
        value = place.value
        if not isinstance(value, dict):
            return self._boolean(place)
        if self.document.stands_alone(value):
            return self._reference(place, depth, context.alone)
        self._refuse_unkept(place, value, context)
        written: dict[str, object] = {}
        own, extra = block.written(self, place, value, depth, context)
        for keyword in value:
            if keyword == "$ref":
                written |= self._reference(place, depth, context.alone)
            elif keyword in IN_PLACE:
                self._applied(place, keyword, depth, context, written)
            elif keyword in OWN:
                written.update({name: inside for name, inside in own.items() if name not in written})
        written.update({name: inside for name, inside in own.items() if name not in written})
        _all_of(written, extra)
        return written

    def _boolean(self, place: Place) -> bool:
        if isinstance(place.value, bool):
            return place.value
        raise BadGrammar(f"a schema is an object, true or false: {place.where} is neither")

    def _passes_on(self, place: Place) -> bool:
        """Whether a schema says nothing itself, and hands its value to the schemas of one keyword."""
        value = place.value
        assert isinstance(value, dict)
        if self.document.stands_alone(value):
            return True
        said = [keyword for keyword in value if keyword in OWN or keyword in IN_PLACE or keyword in REFUSED]
        several = value.get("allOf")
        one = not isinstance(several, list) or len(several) == 1
        return len(said) == 1 and said[0] in IN_PLACE and one

    def _closing(self, place: Place, around: list[Place]) -> dict[str, object] | None:
        """The keys of an object that has no others; None where it may have."""
        assert isinstance(place.value, dict)
        named = tree.names(around)
        if place.value.get("unevaluatedProperties") is False and self._evaluates_plainly(around):
            return named
        has_names = any(value.get("properties") for value in tree.values(around))
        return named if self.closed and has_names and not tree.other_keys_are_told(around) else None

    def _evaluates_plainly(self, around: list[Place]) -> bool:
        """Whether every key that is named is evaluated: no branch may fail, no key is named by a pattern."""
        first, *rest = tree.values(around)
        unclear = ("anyOf", "oneOf", "additionalProperties", "patternProperties", "if", "dependentSchemas")
        return not any(keyword in value for value in (first, *rest) for keyword in unclear) and not any(
            "unevaluatedProperties" in value for value in rest
        )

    def _refuse_unkept(self, place: Place, value: dict[str, object], context: Context) -> None:
        for keyword, harmless in REFUSED.items():
            if (
                keyword in value
                and not harmless(value[keyword], value)
                and not context.settles(keyword, value)
            ):
                with self.trying(place):
                    raise Unsupported(keyword)

    def trying(self, place: Place) -> Trying:
        return Trying(place, self.lenient, self.unenforced)

    def _reference(self, place: Place, depth: int, alone: bool) -> dict[str, object]:
        target = self.document.target(place)
        known = (target.key, alone)
        if known not in self._names:
            name = self._names[known] = f"r{len(self._names)}"
            self.definitions[name] = True  # its place in the order, until it is written
            self.definitions[name] = (
                self.standalone(target, depth + 1) if alone else self.part(target, depth + 1, Context())
            )
        return {"$ref": f"#/$defs/{self._names[known]}"}

    def _applied(
        self, place: Place, keyword: str, depth: int, context: Context, written: dict[str, object]
    ) -> None:
        branches = self.trees.branches(place, keyword)
        options = [
            self.standalone(branch, depth + 1) if context.alone else self.part(branch, depth + 1, Context())
            for branch in branches
        ]
        if keyword == "oneOf" and not exclusive(self.document, branches):
            with self.trying(place):
                raise Unsupported(
                    "oneOf",
                    "is not supported: branches may overlap; tell them apart by type or constant",
                )
        if keyword == "allOf":
            _all_of(written, options)
        elif "anyOf" in written:
            _all_of(written, [{"anyOf": options}])
        else:
            written["anyOf"] = options

    def spend(self, place: Place, keyword: str, amount: int) -> None:
        self.spent[keyword] += amount
        if self.spent[keyword] > MAX_SPENT[keyword]:
            raise BadGrammar(
                f'"{keyword}" at {place.where} is one too many for a grammar; use it in fewer places'
            )

    def escapes(self) -> str:
        """An escape by code point gives a key a second spelling, which the compiler takes for another key."""
        if not self.has_other_names:
            return SHORT_ESCAPES + "u"
        if self.needs_code_points:
            raise BadGrammar(
                f"{self.needs_code_points[0]} holds a control character, which is not supported "
                "in a schema with named and other keys; set additionalProperties to false"
            )
        return SHORT_ESCAPES


def _all_of(written: object, schemas: list[object]) -> None:
    assert isinstance(written, dict)
    if schemas:
        written["allOf"] = [*written.get("allOf", []), *schemas]
