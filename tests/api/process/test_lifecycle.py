"""How the process ends."""

from __future__ import annotations

import subprocess
import sys

WHILE_OTHERS_WRITE = """
import os, threading
from api.process import lifecycle
def write():
    while not threading.Event().wait(0.001):
        os.write(2, b"what a library says\\n")
threading.Thread(target=write, daemon=True).start()
lifecycle.fatal("the reason", lifecycle.RANK_LOST)
"""


def test_nothing_comes_behind_the_last_line_whoever_writes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WHILE_OTHERS_WRITE], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 8
    assert ended.stderr.splitlines()[-1] == "Error: the reason"
