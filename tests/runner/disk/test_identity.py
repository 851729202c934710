"""Which entries are a model's own."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from runner import models
from runner.cache.slots import Slots
from runner.disk.entry import forms
from runner.disk.folder import open_folder
from runner.disk.identity import identity, probe
from runner.disk.opening import open_disk_cache
from runner.store.resolve import open_model
from tests.parts import tiny


def of(folder: Path, device: str = "cpu") -> str:
    files = open_model(str(folder))
    model = models.build(files.config)
    saved = probe(model, model.make_memory()).save()
    assert saved is not None
    return identity(files, device, forms(saved))


def test_whatever_may_change_a_number_makes_another_model(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "model")
    weights, config = folder / "model.safetensors", folder / "config.json"
    first, times = of(folder), weights.stat()
    assert of(folder) == first
    found = {first, of(folder, "cuda")}
    data = bytearray(weights.read_bytes())
    data[-20_000:-10_000] = bytes(10_000)
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    found.add(of(folder))
    os.utime(weights)
    found.add(of(folder))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 20_000.0}))
    found.add(of(folder))
    assert len(found) == 5


def test_a_model_of_another_library_is_not_saved_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes: dict[str, Any] = {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "head_dim": 8,
    }
    folder = tiny.write(tmp_path / "model", **changes, sliding_window=7, sliding_window_pattern=2)
    files = open_model(str(folder))
    model = models.build(files.config)
    cache = open_folder(tmp_path / "cache", 1)
    assert open_disk_cache(cache, files, model, Slots(model.make_memory), "cpu", lambda: None) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
