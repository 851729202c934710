"""When unused buffers go back to the system."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.machine import device, memory

TOTAL = 1600


@pytest.mark.parametrize(
    ("kind", "unused", "released"),
    [("cpu", 1, True), ("metal", 1, True), ("cuda", 100, False), ("cuda", 101, True)],
)
def test_between_steps_only_cuda_keeps_some(
    monkeypatch: pytest.MonkeyPatch, kind: device.Kind, unused: int, released: bool
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(device, "kind", lambda: kind)
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": TOTAL})
    monkeypatch.setattr(mx, "get_cache_memory", lambda: unused)
    monkeypatch.setattr(mx, "clear_cache", lambda: calls.append(None))
    memory.tidy_up()
    assert bool(calls) is released
