"""`mlx-runner follow RANK BACKEND DESCRIPTOR`: rank 0 starts it (`api/process/followers.py`), no person does.

It ends when its socket to rank 0 does. On its own account it writes log lines only: what is wrong is for rank 0 to
tell.

Knows nothing about HTTP or arrays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import NoReturn

from api.process import logs
from api.process.environment import log_level
from api.process.lifecycle import OTHER, PARENT_GONE, leave
from runner.errors import explain
from runner.ranks.channel import Channel

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # for rank 0 to notice who else is gone: our sums fail for it, too


def main(argv: Sequence[str]) -> NoReturn:
    """Follow until rank 0 is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank 0 gets it as well, and decides
    rank, backend, descriptor = argv
    handler = logs.start(log_level(), int(rank))
    channel = Channel(socket.socket(fileno=int(descriptor)))
    try:
        from runner.ranks.follower import Follower
        from runner.ranks.processes import Processes

        Follower(channel, lambda: Processes(backend), lambda: os._exit(PARENT_GONE)).run()
    except BaseException as error:
        time.sleep(LAST_WORDS_S)
        log.exception("Following ended")
        with contextlib.suppress(OSError):
            channel.send("failed", explain(error))
    leave(OTHER, handler)
