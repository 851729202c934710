"""Model directories of the zoo, made once, and both models of each."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from runner.models.base import Model
from tests.parts.zoo import CASES, expected, ours, write


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: write(folder / name, name) for name in CASES}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Model, mx.array]:
    return ours(folders[request.param]), expected(folders[request.param])
