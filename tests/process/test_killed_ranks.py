"""SIGKILL of each rank in each phase, at a moment drawn by chance: nobody is left, no answer is without an end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.parts.processes import (
    EXIT_S,
    START_S,
    Running,
    children,
    held_back,
    is_alive,
    linux_only,
    spawned,
    wait_until,
)
from tests.parts.streams import Request, ask, endless, read_stream

pytestmark = [linux_only, pytest.mark.slow]
LIVES = int(os.environ.get("RANK_LIVES", "1"))  # of each rank in each phase
WITHIN_S = 5.0
FORMS_S = 75.0  # a call that makes a group is ended after a minute
STARTS_S = 0.8  # in which processes become a group, where nobody else needs the machine
PHASES = ("starting", "loading", "idle", "prefill", "decode")


class Gone(NamedTuple):
    """Seconds behind the kill. told: until the open answer had its end; None where there was none to tell."""

    all_s: float
    told_s: float | None


def killed(model: Path, phase: str, rank: int, chance: random.Random) -> Gone | None:
    """None for the one call that makes a group, which nothing inside this process can end before FORMS_S."""
    arguments = ("--model", str(model), "--port", "PORT", "--tensor-parallel", "2")
    with contextlib.ExitStack() as stack:
        if phase == "loading":
            stack.enter_context(held_back(model / "config.json"))
        running = stack.enter_context(spawned("runner", *arguments))
        wait_until(lambda: len(followers(running)) > 0, START_S, "a process that follows")
        [other] = followers(running)
        stream = None
        if phase == "loading":
            running.output.wait_for("Ranks joined")
        elif phase == "starting":
            time.sleep(chance.uniform(0, STARTS_S))  # the moment is the experiment
        else:
            running.wait_ready()
        if phase == "prefill":
            stream = stack.enter_context(Request(running.port, ask("x" * 8000, 1))).started()
            time.sleep(chance.uniform(0, 0.2))
        if phase == "decode":
            stream = stack.enter_context(Request(running.port, endless())).started()
            for _ in range(chance.randrange(1, 40)):
                stream.next_record()
        struck = time.monotonic()
        os.kill(other if rank else running.pid, signal.SIGKILL)
        told_s = None
        if rank and stream is not None:
            error = read_stream(stream.response.read()).error
            told_s = time.monotonic() - struck
            assert error is not None
            assert error["error"] == "rank 1 of 2 is lost: it was ended by SIGKILL"
        code = running.exit_code(FORMS_S if phase == "starting" else EXIT_S)
        wait_until(lambda: not is_alive(other), EXIT_S, "the end of all")
        if rank and phase == "starting" and code == -signal.SIGKILL:
            assert "a call has held the interpreter" in running.output.lines[-1]
            return None
        assert code == (8 if rank else -signal.SIGKILL), running.output.text
        if rank:
            last = running.output.lines[-1]
            assert last == "Error: rank 1 of 2 is lost: it was ended by SIGKILL", running.output.text
    took_s = time.monotonic() - struck
    if rank and phase == "starting" and took_s > WITHIN_S:
        return None  # the ring gave that call up by itself, after half a minute
    return Gone(took_s, told_s)


def followers(running: Running) -> list[int]:
    found = []
    for pid in children(running.pid):
        with contextlib.suppress(OSError):
            if b"follow" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_wherever_and_whenever_one_is_killed_all_end(slow_model: Path, phase: str, rank: int) -> None:
    chance = random.Random(f"{phase} {rank}")
    lives = [killed(slow_model, phase, rank, chance) for _ in range(LIVES)]
    gone = [life for life in lives if life is not None]
    seconds = [one.all_s for one in gone]
    told = [one.told_s for one in gone if one.told_s is not None]
    ends = f", told after {min(told):.2f} to {max(told):.2f} s" if told else ""
    span = f"{min(seconds, default=0):.2f} to {max(seconds, default=0):.2f}"
    print(f"\nrank {rank}, {phase}: {len(lives)} killed, {len(gone)} gone after {span} s{ends}")
    assert max(seconds, default=0) < WITHIN_S
