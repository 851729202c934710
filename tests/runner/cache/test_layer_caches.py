"""One contract for every storage: a script of writes and rewinds against a plain list."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.base import KeyValues, Storage
from runner.cache.kv import KVCache
from runner.cache.latent import LatentCache
from runner.cache.memory import Memory
from runner.cache.recurrent import RecurrentCache
from runner.cache.rotating import LEEWAY, RotatingKVCache
from runner.cache.saved import BLOCK
from runner.cache.span import Span
from runner.cache.windowed import WindowedKVCache

Kind = KeyValues | LatentCache
Quantizable = TypeVar("Quantizable", bound=KeyValues)

WIDTH = 320  # numbers that a test may write; whole groups of what is quantized


def quantized(cache: Quantizable, bits: int = 8) -> Quantizable:
    cache.quantize(bits)
    return cache


KINDS: dict[str, Callable[[int], Kind]] = {
    "plain": lambda window: KVCache(),
    "latent": lambda window: LatentCache(),
    "windowed": WindowedKVCache,
    "rotating": RotatingKVCache,
    "quantized plain": lambda window: quantized(KVCache(), 4),
    "quantized windowed": lambda window: quantized(WindowedKVCache(window)),
    "quantized rotating": lambda window: quantized(RotatingKVCache(window)),
}
NOTHING = 1e-5  # the rounding of what is quantized; a position has 1 / WIDTH at least
SCRIPTS = st.lists(
    st.tuples(
        st.integers(1, 24),
        st.sampled_from([None, None, 99, 2]),  # a checkpoint, and how many are to be left
        st.integers(0, 30),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
"""What to write, what to mark, how far to go back, and whether from there to a checkpoint."""


def write(cache: Kind, numbers: list[int]) -> list[list[int]]:
    """Feed positions that hold these numbers; what each of their queries sees, by attention itself.

    A number is a key and a value of its own, so with a scale of 0 a query finds the mean of all that it sees, and
    with a large one the number that it asks for.
    """
    span = Span(cache.offset, len(numbers))
    rows = mx.eye(WIDTH)[mx.array(numbers)][None, None]  # [1,1,L,D]
    if isinstance(cache, LatentCache):
        cache.write(rows)
    else:
        asked = cache.attend(rows, rows, rows, span, scale=1e4)
        assert mx.allclose(asked, rows), "values go with their keys"
    assert mx.allclose(cache.look(rows, span, scale=1e4), rows)
    means: Any = cache.look(rows, span, scale=0.0)[0, 0].tolist()
    seen = [[number for number, share in enumerate(mean) if share > NOTHING] for mean in means]
    for mean, visible in zip(means, seen, strict=True):
        assert all(abs(mean[number] * len(visible) - 1) < 1e-6 for number in visible)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(window=st.integers(1, 13), script=SCRIPTS)
def test_a_storage_shows_what_a_list_would(
    kind: str, window: int, script: list[tuple[int, int | None, int, bool]]
) -> None:
    """Every write has numbers of its own, so what a rewind forgot is never taken for what came instead."""
    cache = KINDS[kind](window)
    held: list[int] = []
    reach = window if kind.endswith(("windowed", "rotating")) else WIDTH
    written = longest = furthest = 0
    checkpoints: list[int] = []
    for length, mark, back, home in script:
        numbers = list(range(written, written + length))
        seen = write(cache, numbers)
        held += numbers
        written += length
        longest, furthest = max(longest, length), max(furthest, len(held))
        ends = range(len(held) - length + 1, len(held) + 1)
        assert seen == [held[max(0, end - reach) : end] for end in ends]
        if mark is not None:
            mx.eval(cache.checkpoint())
            checkpoints = sorted({*checkpoints, len(held)})[-mark:]
            cache.keep(checkpoints)
        foretells(cache)
        to = max(0, len(held) - back)
        if home:
            to = max((position for position in checkpoints if position <= to), default=to)
        before = cache.offset
        if cache.rewind(to):
            held = held[:to]
        else:
            assert kind.endswith("rotating")
            assert furthest - to > window // 2, "so far it always goes back"
            assert to not in checkpoints
            assert cache.offset == before
        assert cache.offset == len(held)
        checkpoints = [position for position in checkpoints if position <= len(held)]
        if kind.endswith("rotating"):
            own = cache.nbytes - cache.kept_bytes
            assert own <= (2 * window + longest) * 2 * WIDTH * 4


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(window=st.integers(1, 13), script=SCRIPTS, aim=st.integers(0, 100))
def test_what_is_restored_is_what_a_rewind_leaves(
    kind: str, window: int, script: list[tuple[int, int | None, int, bool]], aim: int
) -> None:
    """What it shows, and where it goes back to."""
    cache = KINDS[kind](window)
    held: list[int] = []
    written = 0
    for length, mark, back, _ in script:
        numbers = list(range(written, written + length))
        write(cache, numbers)
        written += length
        held += numbers
        if mark is not None:
            mx.eval(cache.checkpoint())
        if cache.rewind(max(0, len(held) - back)):
            held = held[: cache.offset]
    to = cache.restorable(aim * len(held) // 100) or len(held)
    saved, restored = cache.save(), KINDS[kind](window)
    assert saved is not None
    if to:
        restored.restore(saved, to)
    assert restored.offset == to
    assert cache.rewind(to)
    assert [restored.restorable(position) for position in range(to)] == [
        cache.restorable(position) for position in range(to)
    ]
    reach = window if kind.endswith(("windowed", "rotating")) else WIDTH
    held = [*held[:to], written]
    assert write(restored, [written]) == [held[max(0, len(held) - reach) :]]


@pytest.mark.parametrize("kind", KINDS)
def test_long_rows_are_saved_in_blocks_of_which_a_beginning_needs_the_first(kind: str) -> None:
    cache, rows = KINDS[kind](BLOCK + 9), mx.random.normal((1, 1, 2 * BLOCK + 5, 32), key=mx.random.key(0))
    restored = KINDS[kind](BLOCK + 9)
    for one, to in ((cache, 2 * BLOCK + 5), (restored, BLOCK + 7)):
        if one is restored:
            saved = cache.save()
            assert saved is not None
            assert max(array.shape[2] for array in saved.values()) == BLOCK
            one.restore(saved, to)
        elif isinstance(one, LatentCache):
            one.write(rows)
        else:
            one.attend(rows[:, :, :1], rows, rows, Span(0, to), scale=1.0)
        assert mx.array_equal(one.arrays()[0][0, 0, :to], cache.arrays()[0][0, 0, :to])


def foretells(cache: Storage) -> None:
    """`restorable` says of every position what `rewind` would do. A rewind moves numbers only: a copy is enough."""
    possible = [to for to in range(cache.offset + 3) if copy.copy(cache).rewind(to)]
    assert possible[0] == 0
    assert possible[-1] == cache.offset
    for to in range(cache.offset + 3):
        assert cache.restorable(to) == max(position for position in possible if position <= to)


def advance(cache: RecurrentCache, numbers: list[int]) -> None:
    """A state that says what it stands for: all numbers so far."""
    before: Any = cache.state[0].tolist() if cache.state else []
    cache.replace((mx.array(before + numbers),), len(numbers))


def remembered(cache: RecurrentCache) -> list[int]:
    state: Any = cache.state[0].tolist() if cache.state else []
    return list(state)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([None, 99, 2]), st.integers(0, 12)),
        min_size=1,
        max_size=12,
    )
)
def test_a_recurrent_storage_goes_back_to_what_it_still_holds_and_nowhere_else(
    script: list[tuple[int, int | None, int]],
) -> None:
    """Back to the position before the last forward always, and to checkpoints."""
    cache = RecurrentCache()
    held: list[int] = []
    written = 0
    checkpoints: list[int] = []
    for length, mark, back in script:
        numbers = list(range(written, written + length))
        written += length
        advance(cache, numbers)
        held += numbers
        assert remembered(cache) == held
        foretells(cache)
        if mark is not None:
            cache.checkpoint()
            checkpoints = [*checkpoints, len(held)][-mark:]
            cache.keep(checkpoints)
        possible = {0, len(held) - length, len(held), *checkpoints}
        for position in possible - {0}:
            restored = RecurrentCache()
            restored.restore(cache.save(), position)
            assert (restored.offset, remembered(restored)) == (position, held[:position])
            assert {to for to in range(position + 1) if restored.restorable(to) == to} == {
                to for to in possible if to <= position
            }
        to = len(held) - back
        assert cache.rewind(to) == (to in possible)
        if to in possible:
            held, checkpoints = held[:to], [position for position in checkpoints if position <= to]
        assert (cache.offset, remembered(cache)) == (len(held), held)
        foretells(cache)


def test_a_recurrent_storage_holds_the_states_of_checkpoints_and_of_two_steps() -> None:
    cache = RecurrentCache()
    for position in range(40):
        cache.replace((mx.zeros(10), mx.zeros((2, 3))), 1)
        if position % 7 == 0:
            cache.checkpoint()
            cache.keep([position - 6, position + 1])
    assert cache.kept_bytes == 2 * 16 * 4
    assert cache.nbytes == 4 * 16 * 4
    assert [array.shape for array in cache.arrays()] == [(10,), (2, 3)]


def test_checkpoints_of_a_rotating_storage_share_rows() -> None:
    cache, row = RotatingKVCache(50), 2 * WIDTH * 4  # bytes
    for start in range(0, 200, 20):
        write(cache, list(range(start, start + 20)))
        cache.checkpoint()
    assert cache.kept_bytes == 200 * row, "each position once"
    cache.keep([100])
    assert cache.kept_bytes < (49 + LEEWAY + 2 * 20) * row
    assert cache.restorable(199) == 199
    assert [cache.restorable(to) for to in (120, 100, 99, 84, 60)] == [100, 100, 99, 84, 0]


@pytest.mark.usefixtures("nothing_left_over")  # a buffer that is used again may be a little too large, too
def test_a_checkpoint_holds_on_to_no_buffer() -> None:
    """One head: there a slice of a buffer is contiguous as it is, and could be taken without a copy."""
    cache = RotatingKVCache(50)
    write(cache, list(range(200)))
    mx.eval(cache.arrays(), cache.checkpoint())
    buffers = cache.nbytes - cache.kept_bytes
    held, before = cache._runs, mx.get_active_memory()
    del cache
    assert before - mx.get_active_memory() == buffers
    assert held


def test_layers_of_different_kinds_go_back_to_where_all_of_them_can() -> None:
    """Where one can go at most may be too far back for another, which then has to say so in its turn."""
    plain, recurrent, rotating = KVCache(), RecurrentCache(), RotatingKVCache(8)
    for start in range(0, 60, 10):
        numbers = list(range(start, start + 10))
        write(plain, numbers)
        write(rotating, numbers)
        advance(recurrent, numbers)
        if start == 10:
            recurrent.checkpoint()
    memory = Memory(attention={0: plain, 2: rotating}, recurrent={1: recurrent})
    assert [storage.restorable(58) for storage in (plain, recurrent, rotating)] == [58, 50, 58]
    assert memory.restorable(58) == 50
    assert [storage.restorable(49) for storage in (plain, recurrent, rotating)] == [49, 20, 49]
    assert memory.restorable(49) == 0, "at 20 the rotating one says no"
    assert Memory(attention={0: plain}, recurrent={1: recurrent}).restorable(49) == 20
    assert memory.rewind(50)
    assert memory.is_level


def test_the_same_checkpoint_twice_counts_once() -> None:
    cache = RecurrentCache()
    advance(cache, [0])
    cache.checkpoint()
    advance(cache, [1, 2])
    cache.checkpoint()
    cache.checkpoint()
    advance(cache, [3])
    advance(cache, [4])
    assert cache.restorable(2) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", [-1, 21])
def test_nothing_is_rewound_to_where_it_never_was(kind: str, to: int) -> None:
    cache = KINDS[kind](4)
    write(cache, list(range(20)))
    assert not cache.rewind(to)
    assert cache.offset == 20


def test_a_rotating_storage_says_no_once_a_needed_position_is_gone() -> None:
    """And goes on as if it had not been asked."""
    cache = RotatingKVCache(8)
    for number in range(100):
        write(cache, [number])
    assert not cache.rewind(60)
    assert write(cache, [100]) == [list(range(93, 101))]


def test_a_rotating_storage_stays_small_however_long_it_runs() -> None:
    cache = RotatingKVCache(8)
    for number in range(500):
        write(cache, [number % WIDTH])
        mx.eval(cache.arrays())
    assert cache.capacity <= 17


def test_decoding_behind_a_window_looks_at_no_more_than_the_window() -> None:
    """What lies before it is not even masked: a weight of 0 would not hide values that are no numbers."""
    cache, row = WindowedKVCache(9), mx.ones((1, 1, 1, 4))
    spoiled = mx.full((1, 1, 21, 4), math.nan)
    cache.attend(spoiled, spoiled, spoiled, Span(0, 21), scale=1.0)
    for position in range(21, 40):
        found = cache.attend(row, row, row, Span(position, 1), scale=1.0)
        assert mx.isnan(found).any().item() == (position - 8 < 21)


def test_a_reserve_changes_nothing_that_is_seen() -> None:
    for kind, make in KINDS.items():
        cache, other = make(5), make(5)
        cache.reserve(1_000)
        for start in range(0, 60, 6):
            numbers = list(range(start, start + 6))
            assert write(cache, numbers) == write(other, numbers), kind
