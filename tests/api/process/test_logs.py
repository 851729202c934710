"""Log lines are slog text that no host takes for an error, and nobody waits for their reader."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time

import pytest

from api.process.environment import log_level, max_queue
from api.process.logs import MAX_LINE, QUEUED_LINES, PipeHandler, SlogFormatter, calm, python_level
from runner.machine.levels import TRACE

HOST_PREFIXES = (
    "mlx:", "MLX:", "panic:", "fatal error:", "error:", "Error:", "CUDA error", "ROCm error",
    "cudaMalloc failed", '"ERR"', "error loading model", "GGML_ASSERT",
)  # fmt: skip
HOST_MEMORY_WORDS = (
    "out of memory", "out of device memory", "cudamalloc failed", "hipmalloc failed", "failed to allocate",
    "allocation failed", "not enough memory", "insufficient memory", "failed to reserve graph",
    "vk_error_out_of_device_memory", "erroroutofmemory",
)  # fmt: skip


def line(message: str, level: int = logging.INFO, **values: object) -> str:
    record = logging.LogRecord("x", level, "/somewhere/worker.py", 42, message, (), None)
    record.__dict__.update(values)
    return SlogFormatter().format(record)


def test_a_line_has_time_level_source_message_and_values() -> None:
    pattern = r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d level=INFO source=worker\.py:42 "
    assert re.fullmatch(
        pattern + r'msg="Model loaded" model=demo n=3', line("Model loaded", model="demo", n=3)
    )


def test_levels_have_slogs_names() -> None:
    levels = {logging.WARNING: "WARN", logging.ERROR: "ERROR", logging.DEBUG: "DEBUG", TRACE: "TRACE"}
    for level, name in levels.items():
        assert f"level={name} " in line("m", level)


def test_values_with_blanks_quotes_or_line_breaks_are_quoted_on_one_line() -> None:
    written = line("m", a='say "hi"', b="x\ny\\z", c="", d="a=b", e="\x1b[31m")
    assert written.endswith(r'a="say \"hi\"" b="x\ny\\z" c="" d="a=b" e="\u001b[31m"')


@pytest.mark.parametrize("word", HOST_PREFIXES + HOST_MEMORY_WORDS)
def test_no_ordinary_line_contains_what_a_host_takes_for_an_error(word: str) -> None:
    written = line(f"before {word} after", value=f"x {word} y")
    assert all(alarm not in written for alarm in HOST_PREFIXES)
    assert all(alarm not in written.lower() for alarm in HOST_MEMORY_WORDS)


def test_a_traceback_is_one_quoted_value() -> None:
    try:
        raise ValueError("bad value")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "Failed", (), sys.exc_info())
    written = SlogFormatter().format(record)
    assert "\n" not in written
    assert "ValueError : bad value" in written


def test_lines_are_cut() -> None:
    assert len(line("m" * 100_000)) == MAX_LINE


def test_calm_leaves_usual_words_alone() -> None:
    text = 'msg="no errors here" mlx=0.32 err=nothing level=ERROR'
    assert calm(text) == text


def fill(descriptor: int) -> None:
    """Write into a pipe until nothing more fits; the next write waits."""
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"x" * size)
    os.set_blocking(descriptor, True)


def test_a_reader_that_never_reads_blocks_nobody_and_loses_the_oldest_lines() -> None:
    reader, writer = os.pipe()
    handler = PipeHandler(writer)
    handler.setFormatter(logging.Formatter())
    fill(writer)

    def emit(number: int) -> None:
        handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, f"{number} {'x' * 100}", (), None))

    emit(-1)
    while not handler._lines.empty():  # until the thread has taken it and is stuck with it
        time.sleep(0.001)
    for i in range(QUEUED_LINES + 5000):
        emit(i)
    assert handler._lines.full()
    last = handler._lines.queue[-1]
    assert last.startswith(f"{QUEUED_LINES + 4999} ")
    os.close(reader)
    handler.drain(5)
    assert not handler._lines.unfinished_tasks


@pytest.mark.parametrize(
    ("value", "slog"),
    [
        ("", 0),
        ("0", 0),
        ("1", -4),
        ("true", -4),
        ("T", -4),
        ("2", -8),
        ("3", -12),
        ("-1", 4),
        ("x", 0),
        ("'1'", -4),
    ],
)
def test_the_level_is_read_as_the_host_reads_it(value: str, slog: int) -> None:
    assert log_level({"OLLAMA_DEBUG": value}) == slog


def test_slog_levels_on_pythons_scale() -> None:
    assert [python_level(x) for x in (-12, -8, -4, 0, 4, 8)] == [TRACE, TRACE, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("value", "size"),
    [("", 512), ("8", 8), (" '9' ", 9), ("0", 512), ("-3", 512), ("x", 512), ("9" * 5000, 512)],
)
def test_the_queue_length_is_a_positive_number_or_the_default(value: str, size: int) -> None:
    assert max_queue({"OLLAMA_MAX_QUEUE": value}) == size
