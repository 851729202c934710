"""Prometheus's own parser reads what is written, and reads in it what was counted."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from api.wire.metrics import exposition
from runner.totals import FIRST_TOKEN_S, GAP_S, End, Totals
from runner.types import NS_PER_S, SlotStatus, Status

ENDS: list[End] = ["stop", "length", "cancelled", "error", "refused"]
STATUS = Status(True, "demo", 100, 512, 3000, (SlotStatus(True, 5, 70), SlotStatus(False, 7, 90)))


def parsed(totals: Totals, status: Status = STATUS, waiting: int = 0) -> dict[str, Any]:
    """The families by their names; each comes once, with a type and a help."""
    families = list(text_string_to_metric_families(exposition(status, totals, waiting)))
    by_name = {family.name.removeprefix("mlx_runner_"): family for family in families}
    assert len(by_name) == len(families)
    assert all(family.name.startswith("mlx_runner_") for family in families)
    assert all(family.documentation and family.type != "unknown" for family in families)
    return by_name


def value(family: Any) -> float:
    (sample,) = family.samples
    found: float = sample.value
    return found


def test_counters_are_what_was_counted() -> None:
    totals = Totals()
    for number, end in enumerate(ENDS):
        for _ in range(number):
            totals.ended(end)
    for matched in (0, 3, 0, 0):
        totals.matched(matched)
    totals.prompt_tokens, totals.cached_tokens, totals.generated_tokens = 30, 20, 10
    totals.prompt_ns = 1_500_000_000
    totals.gaps.add(250_000_000)
    found = parsed(totals)
    by_end = {sample.labels["end"]: sample.value for sample in found["requests"].samples}
    assert by_end == {end: number for number, end in enumerate(ENDS)}
    names = ("prompt_tokens", "cached_tokens", "generated_tokens", "cache_hits", "cache_misses")
    assert [value(found[name]) for name in names] == [30, 20, 10, 1, 3]
    assert [value(found[name]) for name in ("prompt_seconds", "generate_seconds")] == [1.5, 0.25]
    assert all(found[name].type == "counter" for name in names)


def test_gauges_are_those_of_the_status() -> None:
    found = parsed(Totals(), waiting=4)
    gauges = {name: value(family) for name, family in found.items() if family.type == "gauge"}
    assert gauges == {
        "queue_length": 4,
        "slots": 2,
        "slots_busy": 1,
        "memory_bytes": 3000,
        "cache_tokens": 12,
        "cache_bytes": 160,
        "context_length": 512,
    }


def test_without_a_model_everything_is_there_and_zero() -> None:
    found = parsed(Totals(), Status())
    assert found.keys() == parsed(Totals()).keys()
    assert all(sample.value == 0 for family in found.values() for sample in family.samples)


@given(st.lists(st.floats(0, 400)))
def test_histograms_hold_for_each_bound_how_many_were_not_longer(seconds: list[float]) -> None:
    totals = Totals()
    durations = [round(second * NS_PER_S) for second in seconds]
    for duration in durations:
        totals.first_token.add(duration)
        totals.gaps.add(duration)
    found = parsed(totals)
    for name, bounds in (("first_token_seconds", FIRST_TOKEN_S), ("token_gap_seconds", GAP_S)):
        assert found[name].type == "histogram"
        samples = {(s.name.rpartition("_")[2], s.labels.get("le")): s.value for s in found[name].samples}
        for bound in bounds:
            not_longer = sum(duration <= round(bound * NS_PER_S) for duration in durations)
            assert samples.pop(("bucket", f"{bound:g}")) == not_longer
        assert samples.pop(("bucket", "+Inf")) == samples.pop(("count", None)) == len(durations)
        assert abs(samples.pop(("sum", None)) - sum(durations) / NS_PER_S) < 1e-6
        assert not samples
