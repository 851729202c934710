"""What a schema is written in: what else applies to its value, and what to do where it cannot be kept."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from runner.errors import BadGrammar
from runner.schemas.references import Document, Place
from runner.schemas.values import Unsupported

Schema = dict[str, object]


@dataclass(frozen=True)
class Context:
    """alone: hands its value on, so that its branches are standalone. single: nothing else applies to its value.

    closing: the only keys that its object has, where it is closed.
    """

    alone: bool = False
    single: bool = False
    closing: Schema | None = None

    def settles(self, keyword: str, value: Schema) -> bool:
        """Whether a keyword about what others left over is kept by other means."""
        if keyword == "unevaluatedProperties":
            return value[keyword] is False and (self.closing is not None or "additionalProperties" in value)
        return keyword == "unevaluatedItems" and self.single and not {"contains", "if"} & value.keys()


@dataclass(frozen=True)
class Trying:
    """Around what may be Unsupported: an error that names the keyword, or, in lenient, a note of its name."""

    place: Place
    lenient: bool
    unenforced: dict[str, None]

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Unsupported):
            return False
        if not self.lenient:
            raise BadGrammar(f'"{error.keyword}" at {self.place.where} {error.why}') from error
        self.unenforced[error.keyword] = None
        return True


class Writing(Protocol):
    """What a keyword's own file needs of the Writer: it writes the schemas inside, and counts what is dear."""

    document: Document
    lenient: bool
    constants: int
    needs_code_points: list[str]
    has_other_names: bool

    def standalone(self, place: Place, depth: int) -> object:
        """A schema of a value of its own."""

    def trying(self, place: Place) -> Trying:
        """Around what may be Unsupported."""

    def spend(self, place: Place, keyword: str, amount: int) -> None:
        """Count what costs the compiler much. Raises BadGrammar beyond the limit of a whole schema."""
