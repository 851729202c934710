"""The processes that follow this one: `--tensor-parallel N` starts N - 1 of them on this machine.

A socket joins this process and each follower. When this process is gone the system closes the socket, and the
follower ends. When a follower is gone this process notices it in the same way.

Knows nothing about what they do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from api.process import lifecycle
from api.process.backend import mlx_needed
from runner.errors import BackendMissing, LoadError
from runner.ranks.channel import Channel

if TYPE_CHECKING:
    from api.process.watchdog import Watcher
    from runner.ranks.leader import Leader
    from runner.ranks.meeting import Launched
    from runner.sharding.group import Group

FOLLOW = "follow"
SOURCE = Path(__file__).parent.parent.parent  # where our packages are
GONE_S = 0.5  # for a process whose socket is closed to be gone


Join = Callable[[Callable[[str], None], "Watcher | None"], "Leader"]
"""Makes the leader of a group, given what to do when one of it is lost, and the process that watches this one."""


def group(size: int) -> Join:
    """How a group of `size` processes comes to be. Somebody may have launched all of them, as `mlx.launch` does,
    and then they meet; else this process starts the others. A process that was launched to follow does that here,
    and this call never returns.
    """
    if "MLX_RANK" not in os.environ:
        return partial(start, size)
    try:
        with mlx_needed():
            from runner.ranks import meeting
        found = meeting.launched()
    except BackendMissing as error:
        lifecycle.fatal(str(error), lifecycle.OTHER)
    except LoadError as error:
        lifecycle.fatal(str(error), lifecycle.USAGE)
    if found.size != size:
        lifecycle.fatal(f"--tensor-parallel {size}: {found.size} processes were launched", lifecycle.USAGE)
    if found.rank:
        from api.process import following

        following.launched(found)
    return partial(meet, found)


def start(size: int, on_lost: Callable[[str], None], watcher: Watcher | None) -> Leader:
    """Start the others."""
    from runner.ranks.leader import Leader
    from runner.ranks.places import places
    from runner.ranks.processes import Processes

    found = places(size)
    os.environ.update(found.environments[0])
    started = [_follow(rank, found.backend, found.environments[rank]) for rank in range(1, size)]

    def lost(rank: int, reason: str) -> None:
        said = _end(started[rank - 1][0]) if rank else ""
        on_lost(f"rank {rank} of {size} is lost: {said or reason}")

    def join() -> Group:
        """One call holds all of our Python until everybody has come, and somebody may have died meanwhile."""
        if watcher is not None:
            watcher.form()
        group = Processes(found.backend)
        if watcher is not None:
            watcher.form(over=True)
        return group

    shared = found.backend == "ring"  # a GPU has a memory of its own
    leader = Leader(size, join, lost, found.forget, one_machine=shared)
    leader.start([channel for _, channel in started])
    return leader


def meet(found: Launched, on_lost: Callable[[str], None], _: Watcher | None) -> Leader:
    """The others come by themselves, whenever somebody starts them."""
    from runner.ranks.meeting import MeetingLeader
    from runner.ranks.processes import Processes

    return MeetingLeader(
        found,
        lambda: Processes(found.backend),
        lambda rank, reason: on_lost(f"rank {rank} of {found.size} is lost: {reason}"),
    )


def _follow(rank: int, backend: str, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], Channel]:
    ours, theirs = socket.socketpair()
    inherited = {name: value for name, value in os.environ.items() if name != "MLX_RUNNER_TOKEN"}
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    # With -P the folder that we were started in is nobody's source of modules.
    command = [sys.executable, "-P", "-m", "api", FOLLOW, str(rank), backend, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            command,
            env=inherited | environment | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # libraries write there, as NCCL's side of MLX does
            pass_fds=[theirs.fileno()],
        )
    return process, Channel(ours)


def _end(process: subprocess.Popen[bytes]) -> str:
    """How a process ended; "" if it did not, and then it does now: it may hang, and hold the pipe of our output."""
    try:
        code = process.wait(GONE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return ""
    return f"it ended with exit code {code}" if code >= 0 else f"it was ended by {signal.Signals(-code).name}"
