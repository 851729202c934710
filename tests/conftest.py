"""What every test shares: settings of hypothesis, and model directories that are made once a session."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from runner import models  # first: importing runner opens a fast BLAS before anything imports mlx
from runner.machine import memory
from tests.parts import smollm2 as published
from tests.parts import tiny

# Shared machines stall, and a first call may compile: no example is failed for being late. In CI the examples are
# the same every time, so that a change is judged by what it changed; elsewhere they are new ones.
settings.register_profile(
    "shared",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")


@pytest.fixture
def nothing_left_over() -> None:
    """For tests that count bytes: what earlier tests left to be collected is not freed while they count."""
    gc.collect()
    memory.release_buffers()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers in milliseconds."""
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As quick, with other weights and another context length."""
    return tiny.write(tmp_path_factory.mktemp("models") / "other", seed=1, max_position_embeddings=400)


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Needs seconds for a prompt of 4,000 tokens, milliseconds for a token, tenths of a second for a chunk."""
    return tiny.write(tmp_path_factory.mktemp("models") / "slow", **tiny.SLOW)


@pytest.fixture(scope="session")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Needs a second or two to load: half a gigabyte of zeros, in a file that takes no room on the disk."""
    from mlx.utils import tree_flatten  # late, as above

    changes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 2}
    changes |= {"num_attention_heads": 16, "num_key_value_heads": 16}
    folder = tiny.write(tmp_path_factory.mktemp("models") / "big", num_hidden_layers=1)
    config = tiny.CONFIG | changes
    (folder / "config.json").write_text(json.dumps(config))
    parameters: Any = tree_flatten(models.build(config).parameters())
    header: dict[str, Any] = {}
    end = 0
    for name, like in parameters:
        start, end = end, end + 4 * like.size
        header[name] = {"dtype": "F32", "shape": list(like.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model, packed in 4 bits; only for tests that are slow."""
    return published.made(tmp_path_factory.mktemp("published") / "smollm2")


@pytest.fixture(scope="session")
def smollm2_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same numbers as float32."""
    return published.made(tmp_path_factory.mktemp("published") / "smollm2-dense", "--dense")
