"""A JSON schema, made ready for the grammar compiler.

The compiler (llguidance) holds an answer to much of a schema. The rest it overlooks, misreads or breaks at. So a
schema is written anew: every reference is resolved, every keyword is one that the compiler keeps to the letter,
and what nothing can keep is told.

1. `references` walks the document: where its subschemas are, what each `$ref` names.
2. From the root on, each schema is written as one *block* (its own keywords) beside what applies in place
   (`allOf`, `anyOf`, `oneOf`, `$ref`), in the order of the text, since that is the order of an answer's keys.
3. An object whose schema names properties, and says nothing of others, is *closed*: its answer has no others. By
   the drafts it could; hosts write no others either, and a client that names its keys wants these. This is narrower
   than the schema, never wider.
4. References are definitions `r0`, `r1`, ... of the schema that comes out.

Strict (a direct client): what cannot be kept is refused, by name and place. Lenient (a host's): it is left out, and
named in `unenforced`. In both, an answer is never wider than the keywords that were kept.

No `$schema`: 2020-12 holds, but `items` may be an array and `exclusiveMinimum` a boolean, as in older drafts.

Knows nothing about tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import BadGrammar
from runner.schemas.references import Document
from runner.schemas.writing import Writer

# At most one space, or one new line with its indent, stands between two tokens of JSON: no answer stalls there.
WHITESPACE = r"\x20|\x0A\x20{0,16}"

# The compiler's parser of JSON stops at 128.
MAX_LEVELS = 120


@dataclass(frozen=True)
class Prepared:
    """schema: for the compiler, its settings in `x-guidance`. unenforced: the keywords that were left out."""

    schema: dict[str, object]
    unenforced: tuple[str, ...]


def prepare(schema: object, lenient: bool, closed: bool = True) -> Prepared:
    """Raises BadGrammar. `closed` false leaves objects open, as the drafts have them."""
    if schema is False:
        raise BadGrammar("the schema false accepts nothing")
    root = {} if schema is True else schema
    if not isinstance(root, dict):
        raise BadGrammar(f"a schema is an object, true or false, not {type(root).__name__}")
    document = Document(root)
    writer = Writer(document, lenient, closed)
    written = writer.standalone(document.root, 0)
    body: dict[str, object] = {"x-guidance": settings(writer.escapes())}
    body |= written if isinstance(written, dict) else {"enum": []}
    if writer.definitions:
        body["$defs"] = writer.definitions
    if (levels := _levels(body)) > MAX_LEVELS:
        raise BadGrammar(
            f"the schema is {levels} levels of JSON deep, written out; the limit is {MAX_LEVELS}"
        )
    return Prepared(body, tuple(writer.unenforced))


def _levels(value: object) -> int:
    inside = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(_levels, inside), default=0) if isinstance(inside, list) else 0


def settings(escapes: str) -> dict[str, object]:
    return {
        "whitespace_flexible": True,
        "whitespace_pattern": WHITESPACE,
        "item_separator": ",",
        "key_separator": ":",
        "coerce_one_of": False,
        "lenient": False,
        "json_allowed_escapes": escapes,
    }
