"""A start with a model that cannot be loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.log_lines import is_complaint
from tests.parts.processes import START_S, spawned


def a_missing_directory(folder: Path) -> None:
    shutil.rmtree(folder)


def a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": [')


def a_config_that_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def an_unknown_architecture(folder: Path) -> None:
    config = tiny.CONFIG | {"architectures": ["Nothing\nError: nothing\x1b[31m"]}
    (folder / "config.json").write_text(json.dumps(config))


def an_endless_architecture(folder: Path) -> None:
    config = tiny.CONFIG | {"architectures": ["日" * 100_000]}
    (folder / "config.json").write_text(json.dumps(config))


def truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def weights_that_are_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')


@pytest.mark.parametrize(
    "damage",
    [
        a_missing_directory,
        a_config_that_is_no_json,
        a_config_that_is_a_list,
        an_unknown_architecture,
        an_endless_architecture,
        truncated_weights,
        missing_weights,
        weights_that_are_a_pipe,
        a_broken_tokenizer,
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_last_line(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    folder = tiny.write(tmp_path / "model")
    damage(folder)
    with spawned("runner", "--model", str(folder), "--port", "PORT") as running:
        assert running.exit_code(START_S) == 4
    assert is_complaint(running.output.text)
