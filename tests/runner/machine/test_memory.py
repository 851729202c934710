"""When unused buffers go back to the system."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture
def allowing() -> Iterator[None]:
    yield
    memory.allow(None)


@pytest.mark.usefixtures("allowing")
def test_the_budget_is_what_was_asked_for_or_a_share_of_what_there_is() -> None:
    memory.allow(None)
    everything = memory.total()
    assert memory.budget() == mx.get_memory_limit() == int(memory.SHARE * everything)
    memory.allow(12345)
    assert memory.budget() == memory.total() == mx.get_memory_limit() == 12345


@pytest.mark.parametrize(("active", "wired"), [(500, 500), (5000, 1000)])
def test_on_metal_what_is_active_is_wired_as_far_as_that_is_recommended(
    monkeypatch: pytest.MonkeyPatch, active: int, wired: int
) -> None:
    limits: list[int] = []
    monkeypatch.setattr(device, "kind", lambda: "metal")
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1000})
    monkeypatch.setattr(mx, "get_active_memory", lambda: active)
    monkeypatch.setattr(mx, "set_wired_limit", limits.append)
    memory.wire_active()
    assert limits == [wired]
