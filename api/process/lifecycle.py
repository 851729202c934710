"""How the process begins and ends.

Exit codes: 0 asked to stop, 2 usage, 3 the address, 4 the model, 5 the MLX thread died, 6 out of memory again and
again, or a GPU that failed, 7 the parent is gone, 8 another process that has a part of the model is lost, 128 and a
signal's number asked to stop twice, 1 anything else. A fatal error is one last line on stderr, `Error: <reason>`,
which a host shows to its user. 5 is also the code of an MLX thread that is stuck (`watchdog.py`). Where a call into
C holds the GIL, nothing here can run; the process beside sends SIGKILL.

Every end goes through `os._exit`: an interpreter that shuts down beside a busy MLX thread aborts. Nothing here
needs a tidy end: newer hosts send SIGKILL.

Knows nothing about HTTP or models.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import stat
import sys
import termios
import threading
import time
from typing import NoReturn

from api.process.logs import STDERR, PipeHandler
from runner.errors import message

STOPPED, USAGE, ADDRESS, MODEL, WORKER_DIED, DEVICE_LOST, PARENT_GONE, OTHER = 0, 2, 3, 4, 5, 6, 7, 1
RANK_LOST = 8
AT_ONCE = 128  # and the number of the signal, as shells have it

PARENT_POLL_S = 0.2
DRAIN_S = 0.5
READ_S = 1.0  # at most, for a host to read the last line
GRASP_S = 0.05  # for a host to make something of a line that it has read
OPEN_FILES = 4096


def raise_file_limit() -> None:
    """Each waiting request is an open file, and macOS grants 256 at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fatal(reason: str, code: int, handler: PipeHandler | None = None) -> NoReturn:
    """Write what is logged, then the last line, and leave once it was read; who does not read cannot keep us."""
    leave_after(2 * DRAIN_S + READ_S, code)
    if handler is not None:
        handler.drain(DRAIN_S)
    output = taken(STDERR)
    with contextlib.suppress(OSError):  # nobody may be reading any more
        os.write(output, last_line(reason))
    wait_until_read(output, READ_S)
    os._exit(code)


def taken(descriptor: int) -> int:
    """The same output under another number: whoever writes to the old one, a log or a library, is no longer heard.
    The old one if there is no other.
    """
    try:
        own, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
    except OSError:
        return descriptor
    return own


def wait_until_read(descriptor: int, timeout_s: float) -> None:
    """Wait until nothing is left in a pipe that somebody reads, but not for longer than that.

    A host of v0.17 closes its end when this process is gone, and shows its user the last line that it had read.
    """
    if not is_pipe(descriptor):
        return
    deadline = time.monotonic() + timeout_s
    while is_filled(descriptor) and not is_unread(descriptor) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(GRASP_S)


def is_filled(descriptor: int) -> bool:
    """Whether a pipe holds something, by its write end; False where only the read end can tell, as on macOS."""
    if sys.platform != "linux":
        return False
    held = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return any(held)


def last_line(reason: str) -> bytes:
    """`Error: <reason>`; a message is short enough for a host to keep whole."""
    return b"Error: " + message(reason).encode() + b"\n"


def leave(code: int, handler: PipeHandler | None = None) -> NoReturn:
    """Write what is logged and leave."""
    if handler is not None:
        handler.drain(DRAIN_S)
    os._exit(code)


def leave_after(seconds: float, code: int) -> None:
    """Leave then, whatever happens until then."""

    def wait() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=wait, name="deadline", daemon=True).start()


def watch_parent() -> None:
    """End this process soon after the one that spawned it, also if that one is gone already.

    Polled, because the parent-death signal of Linux fires when the parent's spawning *thread* ends, which in a
    Go program means nothing.
    """
    parent = os.getppid()
    if is_adopted():
        fatal("the process that started this runner is gone", PARENT_GONE)

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os._exit(PARENT_GONE)

    threading.Thread(target=poll, name="parent", daemon=True).start()


def is_adopted() -> bool:
    """Whether our parent is not the one that spawned us: that one died before we could look.

    A host reads our output, so a pipe that nobody reads has lost its host. And a child starts in its parent's
    session, so a parent in another session came later, unless we made a session of our own. That the parent is
    process 1 proves nothing by itself: in a container the host may be process 1, and share its session with
    all others. But then it holds an end of the pipe that our output goes to.
    """
    if is_unread(STDERR):
        return True
    parent = os.getppid()
    if parent == 1 and is_foreign_pipe(STDERR, parent):
        return True
    ours = os.getsid(0)
    try:
        theirs = os.getsid(parent)
    except OSError:
        theirs = -1  # it ended between the two calls, or belongs to somebody else
    return theirs != ours and (ours != os.getpid() or parent == 1)


def is_foreign_pipe(descriptor: int, process: int) -> bool:
    """Whether this is a pipe of which that process holds neither end; False where that cannot be seen."""
    try:
        ours = os.fstat(descriptor)
        if not stat.S_ISFIFO(ours.st_mode):
            return False
        theirs = os.listdir(f"/proc/{process}/fd")
    except OSError:  # not Linux, or the files of somebody else
        return False
    for number in theirs:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.path.samestat(os.stat(f"/proc/{process}/fd/{number}"), ours):
                return False
    return True


def is_pipe(descriptor: int) -> bool:
    with contextlib.suppress(OSError):  # it was closed before we were started
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    return False


def is_unread(descriptor: int) -> bool:
    """Whether this is the write end of a pipe whose read ends are all closed."""
    if not is_pipe(descriptor):
        return False
    try:
        poll = select.poll()
        poll.register(descriptor, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except OSError:
        return False
