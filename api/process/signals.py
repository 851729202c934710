"""What a signal does while the process is still importing: it ends at once, without output.

The entry point imports this file before any other.

Python's own answer to SIGINT is a traceback, which a host would show to its user, and another exit code.

Knows nothing about what comes after it.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

COMMANDS = ("import", "show")  # of a person, whose shell asks whether they have done their work


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number if sys.argv[1:2] in ([name] for name in COMMANDS) else 0)


def interrupt() -> None:
    """Signals mean again what they mean to Python: a command tidies up behind a KeyboardInterrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


signal.signal(signal.SIGINT, _leave)
signal.signal(signal.SIGTERM, _leave)
