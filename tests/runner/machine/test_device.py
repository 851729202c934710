"""What a device's thread sets up before the first model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.machine import device, kernel_folder


@pytest.fixture
def on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "kind", lambda: "cuda")
    monkeypatch.setenv(kernel_folder.VARIABLE, str(tmp_path))
    monkeypatch.setenv(device.GRAPHS[0], "")  # so that it is what it was behind the test


@pytest.mark.usefixtures("on_cuda")
def test_a_step_goes_to_a_gpu_of_nvidias_in_one_graph_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, size = device.GRAPHS
    monkeypatch.setenv(name, "500")
    device.prepare()
    assert os.environ[name] == "500"
    monkeypatch.delenv(name)
    device.prepare()
    assert os.environ[name] == size


def test_no_other_device_is_told_about_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device.GRAPHS[0], raising=False)
    device.prepare()
    assert device.GRAPHS[0] not in os.environ
