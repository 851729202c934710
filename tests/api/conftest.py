"""A runner inside the tests' process, and a probe around everything that is odd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.serving import SENTENCE, Serving, serving
from tests.parts.streams import ask


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model) as made:
        made.answer(ask(SENTENCE))  # and with it the first-use costs
        yield made


@pytest.fixture
def probed(served: Serving) -> Iterator[Serving]:
    """The shared runner, which must answer the same after the test as before it."""
    before = served.answer(ask(SENTENCE)).text
    yield served
    assert served.answer(ask(SENTENCE)).text == before
    assert served.http.get("/health").status_code == 200
