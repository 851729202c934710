"""A process of a few lines beside the runner: it ends the runner where no thread inside could.

A C call that holds the GIL stops all of Python, the thread that watches the parent included. So this process
watches, too, and sends SIGKILL to the runner

- when the host is gone and the runner is still there GRACE_S later, or
- when the runner did not write to the pipe between the two for `silence_s`, or for FORMING_S behind a `!`: then it
  becomes the first of a group of processes, in one call that waits for all of them.

It ends when the runner does, however that ends: the pipe is closed then. It is the runner's child, so `getppid`
says whether the process of that number still is the runner. Signals for the process group are blocked from its
beginning (`watchdog.py`), so a Ctrl-C is the runner's to obey, and a Ctrl-Z stops both.

Time is counted in waits of its own, so that a machine or a process group that stood still does not count.

Runs as a script of its own, without site-packages: standard library only, and as little of it as possible.
"""

from __future__ import annotations

import os
import select
import sys

BEATS, STDERR = 0, 2
KILL = 9  # signal.SIGKILL; importing signal, or typing, costs more than the rest of this process's start
GRACE_S = 1.0
POLL_S = 0.25  # where the system tells of no process's end
WAITS = 10  # that make a silence
FORMING_S = 60.0
READ_S = 0.05  # for a host to read the last line
kept: list[object] = []  # what must not be collected


def endings(process: int) -> list[int]:
    """What becomes readable when the process ends; nothing where the system has no such thing.

    Raises ProcessLookupError for one that ended before.
    """
    if sys.platform == "linux":
        try:
            return [os.pidfd_open(process)]
        except ProcessLookupError:
            raise
        except OSError:  # a kernel before 5.3, or a sandbox
            return []
    elif sys.platform == "darwin":
        queue = select.kqueue()
        ends = select.kevent(process, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        queue.control([ends], 0)
        kept.append(queue)
        return [queue.fileno()]
    return []


def is_there(process: int) -> bool:
    """Whether a process has this number; one that ended and that nobody waited for has it, too."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def watch(runner: int, host: int, silence_s: float) -> None:
    """Until the runner is gone. host: 0 for none; silence_s: 0 for any."""
    try:
        ends = endings(host) if host else []
    except ProcessLookupError:
        return outlive(runner)
    polls = bool(host) and not ends
    patience_s, silent_s = silence_s, 0.0
    while True:
        wait_s = patience_s / WAITS or None
        if polls:
            wait_s = min(POLL_S, wait_s or POLL_S)
        readable = select.select([BEATS, *ends], [], [], wait_s)[0]
        if BEATS in readable:
            beats = os.read(BEATS, 4096)
            if not beats:
                return None
            silent_s = 0.0
            patience_s = min(FORMING_S, silence_s) if beats.endswith(b"!") else silence_s
        elif readable or (polls and not is_there(host)):
            return outlive(runner)
        else:
            silent_s += wait_s or 0.0
            if 0 < patience_s <= silent_s:
                say(
                    f"Error: a call has held the interpreter for more than {patience_s:g} s "
                    "(MLX_RUNNER_WATCHDOG); the runner was killed"
                )
                return kill(runner)


def outlive(runner: int) -> None:
    """The host is gone: the runner has GRACE_S to notice that itself."""
    for _ in range(int(GRACE_S / POLL_S)):
        if select.select([BEATS], [], [], POLL_S)[0] and not os.read(BEATS, 4096):
            return
    kill(runner)


def kill(runner: int) -> None:
    if os.getppid() == runner:
        os.kill(runner, KILL)


def say(line: str) -> None:
    """One line for the host, if there is room for it: nobody waits for a reader here."""
    if select.select([], [STDERR], [], 0)[1]:
        try:
            os.write(STDERR, f"{line}\n".encode())
        except OSError:  # nobody reads
            return
        select.select([], [], [], READ_S)


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
