"""The budget as plain data: what is foretold, what gives way first, who waits, who is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cache.need import STEP, Need, in_steps
from runner.errors import PromptTooLarge
from runner.generation.budget import EMPTY, SMALLEST_CHUNK, Budget, Costs, Entry, Limits

COSTS = Costs(position=100, pair=1, row=50, needs=(Need(row=10), Need(row=10)))
CHUNK = 256
WEIGHTS = 10_000


class Machine:
    """Weights, what live requests hold, and entries that no request has."""

    def __init__(self, total: int, live: int = 0, parked: tuple[int, ...] = ()) -> None:
        self.live = live
        self.parked = list(parked)
        self.budget = Budget(Limits(total, COSTS, CHUNK), lambda: self.used, lambda: self.held, self.spare)

    @property
    def held(self) -> int:
        return self.live + sum(self.parked)

    @property
    def used(self) -> int:
        return WEIGHTS + self.held

    def spare(self) -> bool:
        return bool(self.parked and self.parked.pop())


def least(prompt: int, rows: int = 0) -> int:
    """What a prompt needs beside the weights, in the smallest chunks."""
    limits = Limits(0, COSTS, CHUNK)
    return limits.kept(prompt + 1) + limits.passing(min(SMALLEST_CHUNK, prompt), prompt, rows + 1)


def test_a_prompt_that_fits_gets_the_room_that_it_wants_and_a_scant_memory_what_it_needs() -> None:
    assert Machine(10**9).budget.admit(1000, 1, 3072, EMPTY, 0, 0) == 3072
    assert Machine(WEIGHTS + least(1000)).budget.admit(1000, 1, 3000, EMPTY, 0, 0) == 1024


def test_without_a_byte_less_than_it_needs_a_prompt_is_refused() -> None:
    with pytest.raises(PromptTooLarge, match=r"1000 tokens"):
        Machine(WEIGHTS + least(1000) - 1).budget.admit(1000, 1, 3000, EMPTY, 0, 0)


def test_entries_that_no_request_has_go_before_a_request_waits_and_no_more_than_needed() -> None:
    machine = Machine(WEIGHTS + least(1000, 1) + 50_000, live=20_000, parked=(20_000, 20_000, 20_000))
    machine.budget.admit(10, 1, 11, EMPTY, 0, 0)
    machine.parked = [20_000, 20_000, 20_000]
    assert machine.budget.admit(1000, 1, 1001, EMPTY, 0, 1)
    assert machine.parked == [20_000]


def test_what_any_chunk_takes_counts_once_however_long_it_is_and_not_without_one() -> None:
    plain, more = (Limits(0, COSTS._replace(chunk=chunk), CHUNK) for chunk in (0, 777))
    for fed in (1, 16, 256):
        assert more.passing(fed, 100, 2) == plain.passing(fed, 100, 2) + 777
    assert more.passing(0, 100, 2) == plain.passing(0, 100, 2)


def test_a_request_waits_while_others_hold_what_it_needs() -> None:
    machine = Machine(WEIGHTS + least(1000))
    machine.budget.admit(10, 1, 11, EMPTY, 0, 0)
    machine.live = 1
    assert machine.budget.admit(1000, 1, 1001, EMPTY, 0, 1) == 0


def test_what_others_were_promised_is_not_given_away() -> None:
    machine = Machine(WEIGHTS + least(1000, 1) + 5000)
    machine.budget.admit(10, 1, 11, EMPTY, 0, 0)
    assert machine.budget.admit(1000, 1, 1001, EMPTY, 5000, 1)
    assert not machine.budget.admit(1000, 1, 1001, EMPTY, 5001, 1)


def test_an_entry_that_is_kept_is_not_paid_again_and_one_that_is_forgotten_is_free() -> None:
    budget = Machine(10**9).budget
    kept = budget.limits.kept(1000)
    assert budget.growth(1000, Entry(kept, 500)) == 0
    assert budget.growth(200, Entry(kept, 100)) == 0
    assert budget.growth(1000, Entry(3 * kept, 0)) == -2 * kept
    assert budget.growth(2000, Entry(kept, 500)) > budget.limits.kept(2000) - kept  # while it moves


@given(
    st.integers(1, 2048), st.integers(0, 5000), st.integers(0, 4), st.integers(0, 10**6), st.integers(0, 3)
)
def test_no_chunk_takes_more_than_there_is(size: int, seen: int, rows: int, free: int, parked: int) -> None:
    machine = Machine(WEIGHTS + free, parked=(1000,) * parked)
    before = machine.budget.left  # a chunk shrinks before what is parked goes
    found = machine.budget.chunk(size, seen, rows, 0)
    assert 0 <= found <= size
    passing = machine.budget.limits.passing
    if found:
        assert passing(found, seen, rows) <= machine.budget.left
        assert found == size or passing(min(size, 2 * found + 1), seen, rows) > before
        assert found >= min(size, SMALLEST_CHUNK)
    else:
        assert passing(min(size, SMALLEST_CHUNK), seen, rows) > free
        assert not machine.parked


@given(st.integers(1, 40).map(lambda steps: steps * STEP), st.integers(1, 500), st.integers(0, 10**6))
def test_a_row_grows_by_half_or_as_it_needs_or_waits(room: int, answer: int, free: int) -> None:
    machine = Machine(WEIGHTS + free)
    found = machine.budget.grow(room, room + 1, room + answer, 1, 0)
    larger = (room + 1, min(room + room // 2, room + answer))
    assert found in (room, *map(in_steps, larger))
    kept = machine.budget.limits.kept
    assert found == room or kept(found) - kept(room) <= free


def test_windows_need_no_more_than_they_keep() -> None:
    costs = Costs(needs=(Need(row=10, most=100), Need(row=0, fixed=7)))
    limits = Limits(0, costs, 32)
    assert limits.kept(50) == 10 * (50 + 32) + 7
    assert limits.kept(5000) == limits.kept(100) == 10 * (100 + 32) + 7
