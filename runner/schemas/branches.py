"""Whether two schemas exclude one another, so that `oneOf` means the same as `anyOf`.

Yes is a proof; no means that nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.schemas.keywords import identity, types_of
from runner.schemas.references import Document, Place

DEPTH = 4
MAX_PAIRS = 5_000


def exclusive(document: Document, branches: list[Place]) -> bool:
    told = [_constants(document, branch) for branch in branches]
    known = [constants for constants in told if constants]
    if len(known) == len(told) and len(frozenset().union(*known)) == sum(map(len, known)):
        return True
    pairs = len(branches) * (len(branches) - 1) // 2
    return (pairs <= MAX_PAIRS and all(_apart(document, *pair, DEPTH) for pair in _pairs(branches))) or any(
        _tells_apart(document, branches, key) for key in _keys(document, branches)
    )


def _pairs(branches: list[Place]) -> Iterator[tuple[Place, Place]]:
    for index, branch in enumerate(branches):
        yield from ((branch, other) for other in branches[index + 1 :])


def _keys(document: Document, branches: list[Place]) -> list[str]:
    """Keys that every branch requires."""
    common: list[str] | None = None
    for branch in branches:
        value = _followed(document, branch).value
        required = _strings(value.get("required")) if isinstance(value, dict) else []
        if not isinstance(value, dict) or types_of(value) != ["object"]:
            return []
        common = required if common is None else [key for key in common if key in required]
    return common or []


def _tells_apart(document: Document, branches: list[Place], key: str) -> bool:
    """Whether a key has constants in every branch, none in two of them."""
    values = [_property(document, _followed(document, branch), key) for branch in branches]
    told = [_constants(document, value) if value else frozenset() for value in values]
    return all(told) and len(frozenset().union(*told)) == sum(map(len, told))


def _followed(document: Document, place: Place) -> Place:
    """What a place says through a `$ref` that stands alone."""
    for _ in range(DEPTH):
        value = place.value
        if not isinstance(value, dict) or "$ref" not in value:
            break
        place = document.target(place)
    return place


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _constants(document: Document, place: Place) -> frozenset[object]:
    value = _followed(document, place).value
    if not isinstance(value, dict):
        return frozenset()
    if "const" in value:
        return frozenset([identity(value["const"])])
    listed = value.get("enum")
    return frozenset(map(identity, listed)) if isinstance(listed, list) else frozenset()


def _property(document: Document, place: Place, key: str) -> Place | None:
    value = place.value
    properties = value.get("properties") if isinstance(value, dict) else None
    return (
        document.child(place, "properties", key)
        if isinstance(properties, dict) and key in properties
        else None
    )


def _apart(document: Document, one: Place, other: Place, depth: int) -> bool:
    one, other = _followed(document, one), _followed(document, other)
    if one.value is False or other.value is False:
        return True
    if not isinstance(one.value, dict) or not isinstance(other.value, dict) or depth == 0:
        return False
    constants = _constants(document, one), _constants(document, other)
    if all(constants):
        return not constants[0] & constants[1]
    kinds = _kinds(document, one), _kinds(document, other)
    if not kinds[0] & kinds[1]:
        return True
    return kinds[0] & kinds[1] == {"object"} and _objects_apart(document, one, other, depth)


def _kinds(document: Document, place: Place) -> set[str]:
    """The types that a place may have; an integer is a number too."""
    value = place.value
    assert isinstance(value, dict)
    kinds = {"number" if name == "integer" else name for name in types_of(value)}
    if constants := _constants(document, place):
        names = {"constant": {"null", "boolean"}}
        kinds &= set().union(*(names.get(kind, {kind}) for kind, _ in constants))  # type: ignore[misc,has-type]
    return kinds


def _objects_apart(document: Document, one: Place, other: Place, depth: int) -> bool:
    """Some key is in every object of one of them, and no value of it suits both."""
    assert isinstance(one.value, dict)
    assert isinstance(other.value, dict)
    for key in _strings(one.value.get("required")) + _strings(other.value.get("required")):
        values = _property(document, one, key), _property(document, other, key)
        if values[0] and values[1] and _apart(document, values[0], values[1], depth - 1):
            return True
        if any(_forbids(place.value, key) for place in (one, other)):
            return True
    return False


def _forbids(value: object, key: str) -> bool:
    assert isinstance(value, dict)
    known = value.get("properties")
    listed = isinstance(known, dict) and key in known
    return value.get("additionalProperties") is False and not listed and not value.get("patternProperties")
