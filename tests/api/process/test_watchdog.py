"""When the MLX thread counts as stuck."""

from __future__ import annotations

import pytest

from api.process.watchdog import LOOK_S, Watchdog
from runner.types import Pulse


class Worker:
    """One whose pulse is what a test says."""

    def __init__(self) -> None:
        self.pulse = Pulse("a step", 1, 4 * LOOK_S)

    def where(self) -> str:
        return "here"


def looked(worker: Worker, times: int, patience_s: int | None = None) -> list[str]:
    """What is said of a worker at which somebody looks so many times."""
    said: list[str] = []
    watchdog = Watchdog(worker, None, patience_s, said.append)
    for _ in range(times):
        watchdog.look()
    return said


def test_a_step_that_is_the_same_at_one_look_after_another_is_stuck() -> None:
    assert looked(Worker(), 4) == []
    assert looked(Worker(), 5) == [
        "the MLX thread is stuck: a step came no further for 20 s (MLX_RUNNER_WATCHDOG)"
    ]


def test_a_thread_without_work_is_never_stuck() -> None:
    worker = Worker()
    worker.pulse = Pulse("", 1, 1.0)
    assert looked(worker, 100) == []


def test_who_comes_further_is_not_stuck_however_long_it_takes() -> None:
    worker = Worker()
    said: list[str] = []
    watchdog = Watchdog(worker, None, None, said.append)
    for beats in range(100):
        worker.pulse = worker.pulse._replace(beats=beats // 4)
        watchdog.look()
    assert said == []


@pytest.mark.parametrize(("patience_s", "complaints"), [(0, 0), (1000, 0), (10, 1)])
def test_what_a_user_says_counts_and_zero_is_never(patience_s: int, complaints: int) -> None:
    looks = 6 if patience_s else 1000
    assert len(looked(Worker(), looks, patience_s)) == complaints
