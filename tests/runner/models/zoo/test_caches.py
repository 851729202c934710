"""mlx-lm's caches behind our contract: what they remember, and where they go back to."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.borrowed import BorrowedCaches
from runner.models.base import Model
from tests.parts.arrays import difference
from tests.parts.case import some_tokens
from tests.parts.models import Conversation, logits
from tests.parts.zoo import CASES, PLAIN, RECURRENT, ROTATING, TOKENS, WINDOW, expected, ours

TOLERANCE = 1e-4
OTHERS = some_tokens(30, "another end")


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(CASES)),
    steps=st.lists(
        st.tuples(st.integers(1, 12), st.booleans(), st.integers(0, 14), st.booleans()),
        min_size=1,
        max_size=10,
    ),
)
def test_whatever_is_written_and_rewound_the_logits_are_those_of_a_fresh_computation(
    folders: dict[str, Path], name: str, steps: list[tuple[int, bool, int, bool]]
) -> None:
    """A rewind that is refused changes nothing; what comes behind any is never what was there before. Some go
    to where they are possible.
    """
    model = ours(folders[name])
    conversation = Conversation(model)
    held: list[int] = []
    for turn, (length, mark, back, possible) in enumerate(steps):
        tokens = some_tokens(length, f"turn {turn}")
        there = conversation.feed(tokens)
        held += tokens
        assert difference(there, logits(model, held)[-length:]) < TOLERANCE
        if mark:
            conversation.checkpoint()
        to = max(0, len(held) - back)
        if possible:
            to = conversation.restorable(to)
            assert to >= max(
                (point for point in conversation.memory.points.positions if point <= to), default=0
            )
        if conversation.rewind(to):
            held = held[:to]
        else:
            assert name not in PLAIN
        assert conversation.offset == len(held)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_caches_go_back_to_anywhere(folders: dict[str, Path], name: str) -> None:
    conversation = Conversation(ours(folders[name]))
    conversation.feed(TOKENS[:37] + OTHERS, (25, 12, 30))
    assert conversation.rewind(37)
    rest = conversation.feed(TOKENS[37:], (11,))
    assert difference(rest, expected(folders[name])[37:]) < TOLERANCE


@pytest.mark.parametrize("name", ROTATING)
def test_rotating_caches_go_back_until_they_are_full(folders: dict[str, Path], name: str) -> None:
    conversation = Conversation(ours(folders[name]))
    conversation.feed(TOKENS[:5] + OTHERS[:3], (5, 1))
    assert conversation.rewind(5)
    assert difference(conversation.feed(TOKENS[5:37], (4,)), expected(folders[name])[5:37]) < TOLERANCE
    assert not conversation.rewind(36)
    assert conversation.rewind(37)
    assert difference(conversation.feed(TOKENS[37:], (1,)), expected(folders[name])[37:]) < TOLERANCE
    assert conversation.offset == len(TOKENS) > WINDOW


@pytest.mark.parametrize("name", ROTATING)
def test_rotating_caches_that_are_full_go_back_to_checkpoints(folders: dict[str, Path], name: str) -> None:
    """Again and again: what was noted stays as it was."""
    conversation = Conversation(ours(folders[name]))
    conversation.feed(TOKENS[:20], (1, 7))
    conversation.checkpoint()
    conversation.feed(TOKENS[20:37], (1,))
    conversation.checkpoint()
    for to, size in ((37, 1), (37, 5), (20, 1), (20, 6)):
        conversation.feed(OTHERS, (size,))
        assert conversation.restorable(to + 9) == to
        assert conversation.rewind(to)
        rest = conversation.feed(TOKENS[to:], (size,))
        assert difference(rest, expected(folders[name])[to:]) < TOLERANCE


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_states_go_back_one_step_and_to_checkpoints(folders: dict[str, Path], name: str) -> None:
    """Where decoding runs one step ahead, and where the same prompt comes again."""
    model, theirs = ours(folders[name]), expected(folders[name])
    for to in (40, 36):
        conversation = Conversation(model)
        conversation.feed(TOKENS[:36], (12,))
        conversation.checkpoint()
        assert not conversation.rewind(12)
        assert difference(conversation.feed(TOKENS[36:40], (1,)), theirs[36:40]) < TOLERANCE
        conversation.feed(OTHERS[:1])
        assert not conversation.rewind(38)
        assert [conversation.restorable(position) for position in (35, 38, 40, 41)] == [0, 36, 40, 41]
        assert conversation.rewind(to)
        assert difference(conversation.feed(TOKENS[to:42], (1,)), theirs[to:42]) < TOLERANCE
        assert conversation.rewind(36), "what was noted stays as it was"
        assert difference(conversation.feed(TOKENS[36:], (9,)), theirs[36:]) < TOLERANCE
        assert not conversation.rewind(40)
        assert conversation.rewind(0)
        assert difference(conversation.feed(TOKENS[:20]), theirs[:20]) < TOLERANCE


@pytest.mark.parametrize("to", [-1, 73])
def test_nothing_is_rewound_to_where_it_never_was(pair: tuple[Model, mx.array], to: int) -> None:
    conversation = Conversation(pair[0])
    conversation.feed(TOKENS)
    assert not conversation.rewind(to)
    assert conversation.offset == 72


def test_a_cache_of_a_kind_that_is_not_known_never_goes_back(folders: dict[str, Path]) -> None:
    """Some of mlx-lm's say that they can and lose what they need."""
    from mlx_lm.models import cache as kinds

    caches = BorrowedCaches(lambda: [kinds.ConcatenateKVCache()], kinds)  # type: ignore[no-untyped-call]
    (native,) = caches.native
    caches.expect(3)
    native.update_and_fetch(mx.zeros((1, 1, 3, 4)), mx.zeros((1, 1, 3, 4)))
    assert native.is_trimmable()
    assert not caches.rewind(2)
    assert caches.rewind(3)
    assert caches.rewind(0)
    assert caches.native[0].empty()


def test_what_was_noted_stays_what_it_was_when_a_state_is_changed_in_place() -> None:
    from mlx_lm.models import cache as kinds

    caches = BorrowedCaches(lambda: [kinds.ArraysCache(1)], kinds)
    (native,) = caches.native
    caches.expect(1)
    native[0] = mx.zeros(3)
    for _ in range(2):
        caches.expect(1)
        native.cache[0] += 1
        assert caches.rewind(1)
        assert mx.array_equal(native[0], mx.zeros(3))


def test_bytes_are_those_of_buffers_and_of_what_is_noted(folders: dict[str, Path]) -> None:
    conversation = Conversation(ours(folders["Mamba2ForCausalLM"]))
    caches = conversation.memory.borrowed
    assert caches is not None
    assert caches.nbytes == 0
    conversation.feed(TOKENS[:9])
    state = sum(array.nbytes for array in caches.arrays())
    assert caches.nbytes == state > 0
    conversation.checkpoint()
    conversation.feed(TOKENS[:5], (1,))
    assert caches.nbytes == 3 * state
