"""What is refused says why in one line, in which no word is that hosts look for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, LoadError
from runner.models import ARCHITECTURES, build
from runner.store.resolve import DEFAULT_STORE
from tests.parts.models import loaded


def one_line(error: LoadError) -> str:
    """Its message."""
    message = str(error)
    assert "\n" not in message
    assert "Error:" not in message
    return message


def of_config(config: Config, kind: type[LoadError] = LoadError) -> str:
    """Why no model is built of a config."""
    with pytest.raises(kind) as caught:
        build(config)
    message = one_line(caught.value)
    assert len(message) < 250 + len(", ".join(ARCHITECTURES))
    return message


def of_model(model: str | Path, kind: type[LoadError] = BadModelFiles, store: Path = DEFAULT_STORE) -> str:
    """Why the model of a directory, or of a name in a store, is not loaded. Where it lies is not told."""
    with pytest.raises(kind) as caught:
        loaded(model, store)
    message = one_line(caught.value)
    assert str(store) not in message
    assert not isinstance(model, Path) or str(model) not in message
    return message
