"""Whether anything goes on in a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from runner.machine.processors import Work
from tests.parts.processes import linux_only

ONE_WAITS = """
import threading
from runner.machine.processors import Work
threading.Thread(target=threading.Event().wait, daemon=True).start()
work = Work()
while work.goes_on():  # until the thread has come to its wait
    pass
print(sum(i * i for i in range(3_000_000)) > 0, [work.goes_on() for _ in range(5)])
"""


@pytest.fixture
def busy() -> Iterator[None]:
    """A thread that computes."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_thread_that_computes_is_noticed(busy: None) -> None:
    work = Work()
    while not work.goes_on():  # until it has come to a processor for the first time
        pass
    threading.Event().wait(0.1)
    assert work.goes_on()


@linux_only
def test_threads_that_wait_and_the_one_that_asks_do_not_count() -> None:
    found = subprocess.run([sys.executable, "-c", ONE_WAITS], capture_output=True, text=True, check=True)
    assert found.stdout == "True [False, False, False, False, False]\n"
