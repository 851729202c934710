"""A process that follows: `mlx-runner follow RANK BACKEND DESCRIPTOR`, which rank 0 starts and no person does
(`api/process/followers.py`), or rank 1 and so on of those that somebody launched.

It ends when its socket to rank 0 does. On its own account it writes log lines only: what is wrong is for rank 0 to
tell.

Knows nothing about HTTP or arrays.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from api.process import logs
from api.process.environment import log_level
from api.process.lifecycle import AT_ONCE, OTHER, PARENT_GONE, RANK_LOST, fatal, leave
from runner.errors import explain
from runner.ranks.channel import Channel

if TYPE_CHECKING:
    from runner.ranks.meeting import Launched

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
LAST_WORDS_S = 1.0  # for rank 0 to notice who else is gone: our sums fail for it, too


def main(argv: Sequence[str]) -> NoReturn:
    """Follow rank 0 of this machine, which started us."""
    _end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank 0 gets it as well, and decides
    rank, backend, descriptor = argv
    handler = logs.start(log_level(), int(rank))
    channel = Channel(socket.socket(fileno=int(descriptor)))

    def run() -> None:
        from runner.ranks.follower import Follower
        from runner.ranks.processes import Processes

        Follower(channel, lambda: Processes(backend), lambda: os._exit(PARENT_GONE)).run()

    _until_the_end(run, channel, handler)


def _end_with_parent() -> None:
    """Also in a call that holds all of our Python, where the system can do that. Its main thread started us."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def launched(found: Launched) -> NoReturn:
    """Follow rank 0, wherever it is; somebody started both."""
    handler = logs.start(log_level(), found.rank)
    signal.signal(signal.SIGINT, lambda number, _: os._exit(AT_ONCE + number))
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(AT_ONCE + number))
    try:
        from runner.ranks.follower import Follower
        from runner.ranks.meeting import answered
        from runner.ranks.processes import Processes

        group = Processes(found.backend)
        channel = answered(group, found.host)
    except (RuntimeError, OSError) as error:
        fatal(f"rank {found.rank} does not find the others: {explain(error)}", RANK_LOST, handler)
    _until_the_end(Follower(channel, lambda: group, lambda: leave(RANK_LOST, handler)).run, channel, handler)


def _until_the_end(run: Callable[[], None], channel: Channel, handler: logs.PipeHandler) -> NoReturn:
    try:
        run()
    except BaseException as error:
        time.sleep(LAST_WORDS_S)
        log.exception("Following ended")
        with contextlib.suppress(OSError):
            channel.send("failed", explain(error))
    leave(OTHER, handler)
