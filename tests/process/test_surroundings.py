"""What is around a runner process fails: the disk is full, a folder is gone, nobody reads its log, pings come in
crowds.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts.aftermath import Calm
from tests.parts.disk import entries
from tests.parts.log_lines import check_output
from tests.parts.processes import hosted, linux_only, spawned, stopped
from tests.parts.streams import Request, ask, post

pytestmark = linux_only
PROMPT = "a prompt of more than sixty-four tokens, " * 8


def can_mount(folder: Path) -> bool:
    """Whether we may make a file system of a few pages, which takes root."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(folder)], capture_output=True
    )
    return done.returncode == 0


def test_a_full_disk_costs_a_warning_and_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    """Row 50: an entry of the cache that does not fit."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("may not mount a small file system")
    try:
        arguments = ["runner", "--model", str(tiny_model), "--port", "PORT", "--cache-dir", str(folder)]
        with spawned(*arguments) as running:
            running.wait_ready()
            calm = Calm.of(running)
            with Request(running.port, ask(PROMPT, 5)) as request:
                request.answer()
            running.output.wait_for("Cache entry not saved")
            assert not entries(folder), "what was written of it is gone"
            calm.check(running)
            stopped(running, signal.SIGTERM, "idle, with a full disk")
        check_output(running.output.text)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_folders_that_go_away_cost_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    """Row 50: of temporary files, and of the cache."""
    temporary, cache = tmp_path / "temporary", tmp_path / "cache"
    temporary.mkdir()
    arguments = ["runner", "--model", str(tiny_model), "--port", "PORT", "--cache-dir", str(cache)]
    with spawned(*arguments, environment={"TMPDIR": str(temporary)}) as running:
        running.wait_ready()
        calm = Calm.of(running)
        shutil.rmtree(temporary)
        shutil.rmtree(cache)
        with Request(running.port, ask(PROMPT, 5)) as request:
            request.answer()
        running.output.wait_for("Cache entry not saved")
        calm.check(running)


def test_a_log_that_nobody_can_read_any_more_costs_no_answer(tiny_model: Path) -> None:
    """Row 50: a person's runner, whose output pipe is closed; a hosted one has lost its host then."""
    reading, writing = os.pipe()
    with spawned(
        "--model", str(tiny_model), "--port", "PORT", output=Path(f"/proc/self/fd/{writing}")
    ) as running:
        os.close(writing)
        running.wait_ready()
        calm = Calm.of(running)
        os.close(reading)
        for number in range(3):
            with Request(running.port, ask(f"{number}")) as request:
                request.answer()
        calm.check(running)


def test_durations_do_not_follow_the_clock_on_the_wall() -> None:
    """Row 50: no duration is taken from a clock that somebody can set; files of the cache have its times."""
    root = Path(__file__).resolve().parents[2]
    users = [path for room in ("api", "runner") for path in (root / room).rglob("*.py")]
    wrong = [path.name for path in users if "time.time(" in path.read_text()]
    assert not wrong


def pings(port: int, count: int) -> list[float]:
    """Seconds of each, on one connection."""
    connection, took = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    for _ in range(count):
        asked = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        took.append(time.perf_counter() - asked)
    connection.close()
    return took


def test_pings_are_answered_while_a_megabyte_is_tokenized(slow_model: Path) -> None:
    """Row 48; tests/process/test_pings.py has a prompt that is fed, and a load."""
    text = "many words, " * 85_000
    with hosted(slow_model) as running, ThreadPoolExecutor(2) as pool:
        calm = Calm.of(running)
        prompt = pool.submit(post, running.port, "/completion", json.dumps(ask(text, 1)))
        ids = pool.submit(post, running.port, "/v1/tokenize", text)
        took = sorted(pings(running.port, 200))
        assert prompt.result()[0] == 400
        assert ids.result()[0] == 200
        print(f"200 pings: median {statistics.median(took) * 1e3:.1f} ms, 198th {took[197] * 1e3:.1f} ms")
        assert statistics.median(took) < 0.05
        calm.check(running)
