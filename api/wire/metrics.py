"""Totals and status as Prometheus reads them, in version 0.0.4 of its text format.

    # HELP name what it says
    # TYPE name counter | gauge | histogram
    name{label="value"} number

The library of Prometheus takes a lock for each number that is added, and numbers are added for every token. All
that it would spare us is this file. So the tests have it instead, and read with it what is written here.

Knows nothing about routes or who counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Literal

from runner.totals import Measured, Totals
from runner.types import NS_PER_S, Status

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "mlx_runner_"


def exposition(status: Status, totals: Totals, waiting: int) -> str:
    """All metrics. waiting: requests in the queue."""
    return "\n".join([*_counters(totals), *_gauges(status, waiting), *_histograms(totals), ""])


def _counters(totals: Totals) -> Iterator[str]:
    ends = {f'{{end="{end}"}}': count for end, count in totals.ends.items()}
    generate_s = totals.gaps.read().total_s
    yield from _metric("requests_total", "counter", "Requests that are over, by their end.", ends)
    for name, value, text in (
        ("prompt_tokens_total", totals.prompt_tokens, "Tokens of prompts that are in memory to their end."),
        ("cached_tokens_total", totals.cached_tokens, "Of these, tokens that a slot had already."),
        ("generated_tokens_total", totals.generated_tokens, "Tokens of answers."),
        ("prompt_seconds_total", totals.prompt_ns / NS_PER_S, "Until the first token, the queue left out."),
        ("generate_seconds_total", generate_s, "From first tokens to last ones, summed over requests."),
        ("cache_hits_total", totals.hits, "Requests that found a part of their prompt in a slot."),
        ("cache_misses_total", totals.misses, "Requests that did not."),
    ):
        yield from _metric(name, "counter", text, {"": value})


def _gauges(status: Status, waiting: int) -> Iterator[str]:
    slots = status.slots
    for name, value, text in (
        ("queue_length", waiting, "Requests that wait for a slot."),
        ("slots", len(slots), "Requests that can be answered at once."),
        ("slots_busy", sum(slot.busy for slot in slots), "Requests that are being answered."),
        ("memory_bytes", status.memory, "What MLX holds: weights, slots, buffers for reuse."),
        ("cache_tokens", sum(slot.tokens for slot in slots), "Tokens that slots hold."),
        ("cache_bytes", sum(slot.bytes for slot in slots), "What slots hold, reserved room included."),
        ("context_length", status.context_length, "Tokens that a prompt and its answer may have."),
    ):
        yield from _metric(name, "gauge", text, {"": value})


def _histograms(totals: Totals) -> Iterator[str]:
    for name, measured, text in (
        ("first_token_seconds", totals.first_token.read(), "From the queue to the first token."),
        ("token_gap_seconds", totals.gaps.read(), "From a token of an answer to its next one."),
    ):
        yield from _metric(name, "histogram", text, _series(measured))


def _series(measured: Measured) -> dict[str, float]:
    """Buckets count all that was not longer, so each contains the one before."""
    below = list(accumulate(measured.counts))
    edges = [*(f"{bound:g}" for bound in measured.bounds_s), "+Inf"]
    buckets = {f'_bucket{{le="{edge}"}}': count for edge, count in zip(edges, below, strict=True)}
    return {**buckets, "_sum": measured.total_s, "_count": below[-1]}


def _metric(
    name: str, kind: Literal["counter", "gauge", "histogram"], text: str, values: Mapping[str, float]
) -> Iterable[str]:
    """values: by what follows the name."""
    yield f"# HELP {PREFIX}{name} {text}"
    yield f"# TYPE {PREFIX}{name} {kind}"
    for end, value in values.items():
        yield f"{PREFIX}{name}{end} {value!r}"
