"""Models whose memories keep keys and values quantized: what they give for it, and what stays as it was."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import pytest

from runner import models
from runner.cache.company import Company
from runner.cache.memory import Memory
from runner.generation.budget import Limits
from runner.generation.probe import measured
from runner.kernels.rows_attention import PLAIN
from runner.loading.kv_types import memories
from runner.models.base import Model
from runner.types import KVType
from tests.parts import tiny
from tests.parts.case import some_tokens
from tests.parts.models import Conversation, decoded_together
from tests.parts.quantized_kv import CONFIGS, FLIPS

TYPES: list[KVType] = ["q8_0", "q4_0"]
EVERY = pytest.mark.parametrize("kind", CONFIGS)
MEAN_OFF: dict[KVType, float] = {"q8_0": 0.06, "q4_0": 0.9}  # of logits between -10 and 10
BOTH = pytest.mark.parametrize("kv_type", TYPES)
TOKENS = some_tokens(70)


@functools.cache
def model(kind: str) -> Model:
    config = tiny.CONFIG | CONFIGS[kind]
    made = models.build(config)
    made.load_weights(list(made.rename(tiny.weights(config)).items()))
    return made


def conversation(kind: str, kv_type: KVType) -> Conversation:
    found, make = memories(model(kind), kv_type)
    assert found == kv_type
    return Conversation(model(kind), make())


def kept(memory: Memory) -> list[mx.array]:
    """What its storages keep, without the room behind it."""
    saved = memory.save()
    assert saved is not None
    return list(saved.values())


def furthest(one: mx.array, other: mx.array) -> float:
    return float(mx.abs(one - other).max())


@EVERY
@BOTH
def test_logits_are_near_those_of_floats_and_not_the_same(kind: str, kv_type: KVType) -> None:
    floats = conversation(kind, "f16").feed(TOKENS)
    off = float(mx.abs(conversation(kind, kv_type).feed(TOKENS) - floats).mean())
    assert 0 < off < MEAN_OFF[kv_type]


@EVERY
@BOTH
def test_chunks_change_nothing_but_a_rounding_now_and_then(kind: str, kv_type: KVType) -> None:
    """A key that differs in its last bit may round to the next number, which is one step of one number."""
    whole = conversation(kind, kv_type).feed(TOKENS)
    for sizes in ([1], [13], [3, 30, 1]):
        assert furthest(conversation(kind, kv_type).feed(TOKENS, sizes), whole) < FLIPS[kv_type]


@BOTH
def test_a_prefix_that_is_used_again_is_the_same_to_the_last_bit(kv_type: KVType) -> None:
    """What was fed behind it, and forgotten, left no trace; an edit goes on as if it had been fed at first."""
    edited, twin = (conversation("plain", kv_type) for _ in range(2))
    first, second, other = TOKENS[:30], TOKENS[30:], some_tokens(40, "other")
    edited.feed(first)
    twin.feed(first)
    before = kept(edited.memory)
    edited.feed(second)
    assert edited.rewind(len(first))
    assert all(map(mx.array_equal, kept(edited.memory), before))
    assert mx.array_equal(edited.feed(other), twin.feed(other))
    assert all(map(mx.array_equal, kept(edited.memory), kept(twin.memory)))


@EVERY
@BOTH
def test_rows_together_give_what_each_gives_alone(kind: str, kv_type: KVType) -> None:
    """No lane is lent to what is quantized: its rows attend one by one."""
    rows = {row: conversation(kind, kv_type) for row in range(3)}
    twins = {row: conversation(kind, kv_type) for row in range(3)}
    company = Company(3, PLAIN)
    for row in rows:
        rows[row].feed(TOKENS[: 9 + 20 * row])
        twins[row].feed(TOKENS[: 9 + 20 * row])
    for token in (5, 6, 7):
        found = decoded_together(model(kind), company, rows, [token] * 3)
        expected = mx.concatenate([twin.feed([token]) for twin in twins.values()])
        assert furthest(found, expected) < FLIPS[kv_type]
    for one, alone in zip(rows.values(), twins.values(), strict=True):
        assert one.offset == alone.offset
        assert furthest(one.feed(TOKENS[:9]), alone.feed(TOKENS[:9])) < FLIPS[kv_type]


@EVERY
@BOTH
def test_the_budget_is_told_the_bytes_of_what_is_kept(kind: str, kv_type: KVType) -> None:
    """A number takes its bits and its share of a scale and a bias, where it would take 32."""
    costs = {one: measured(model(kind), memories(model(kind), one)[1]()) for one in ("f16", kv_type)}
    rows = {one: sum(need.row for need in found.needs) for one, found in costs.items()}
    bits = 10 if kv_type == "q8_0" else 6
    assert rows[kv_type] == rows["f16"] * bits / 32
    total = {one: Limits(0, found, 64).kept(4096) for one, found in costs.items()}
    assert total[kv_type] < total["f16"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"head_dim": 16}, {"type": "q8_0", "layers": 0, "others": 2}),
        (CONFIGS["recurrent"], {"type": "q8_0", "layers": 1, "others": 1}),
        (CONFIGS["sharing"], {"type": "q8_0", "layers": 2, "others": 0}),
    ],
)
def test_the_log_says_what_is_quantized_and_what_stays(
    kind: dict[str, Any], said: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "runner.loading.kv_types"):
        found, make = memories(models.build(tiny.CONFIG | kind), "q8_0")
    (record,) = caplog.records
    assert {name: record.__dict__[name] for name in said} == said
    assert found == ("q8_0" if said["layers"] else "f16")
    assert record.levelname == ("INFO" if said["layers"] else "WARNING")
    assert make().offset == 0


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize("length", [256, 512, 1024])
def test_a_prompt_takes_less_memory_at_its_peak_at_every_length(length: int) -> None:
    config = tiny.CONFIG | CONFIGS["plain"] | {"num_hidden_layers": 8, "max_position_embeddings": 8192}
    made = models.build(config)
    made.load_weights(list(made.rename(tiny.weights(config)).items()))
    mx.eval(made.parameters())
    peaks = []
    for kv_type in ("f16", *TYPES):
        memory = memories(made, kv_type)[1]()
        memory.reserve(length)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        for start in range(0, length, 256):
            hidden = made(mx.zeros((1, 256), mx.int32), memory.span(256), memory)
            mx.eval(hidden, memory.arrays())
            assert start + 256 == memory.offset
        mx.eval(made(mx.zeros((1, 1), mx.int32), memory.span(1), memory))
        peaks.append(mx.get_peak_memory() - before)
        del memory, hidden
    assert peaks[0] > peaks[1] > peaks[2]
