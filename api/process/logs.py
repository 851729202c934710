"""Log lines as the host writes its own (Go's slog text format), on stderr, one write each.

    time=2026-02-23T10:00:00.000+01:00 level=INFO source=worker.py:42 msg="Model loaded" model=demo

Three things a host does with our stderr decide the shape:

- It looks in every write for words that announce an error, keeps what follows, and shows that to a user later,
  in place of the true error. So these words are broken up in ordinary lines (`calm`), and a traceback is one
  quoted attribute. Only `api/process/lifecycle.py` writes a line that begins with "Error:", as the process's last.
- It stops reading at a line of 64 KiB. So lines are cut.
- It may stop reading at all. So nobody waits for the pipe: lines go through a bounded queue to a thread of
  their own, and the oldest are dropped when it is full.

Knows nothing about requests or models.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
from datetime import datetime

from runner.machine.levels import TRACE

MAX_LINE = 8 * 1024
QUEUED_LINES = 4096
STDERR = 2

# What a host's status writer searches for, and memory words that would make it evict models.
ALARMS = re.compile(
    r"(?P<head>mlx|panic|fatal error|error):|(?P<cuda>CUDA|ROCm) error|(?P<malloc>cuda|hip)Malloc failed"
    r"|\"ERR\"|error loading model|out of (?:device )?memory|failed to allocate|allocation failed"
    r"|not enough memory|insufficient memory|GGML_ASSERT|failed to reserve graph"
    r"|vk_error_out_of_device_memory|erroroutofmemory",
    re.IGNORECASE,
)
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

# Python's levels on slog's scale; the logger filters on Python's.
SLOG = {logging.DEBUG: -4, logging.INFO: 0, logging.WARNING: 4, logging.ERROR: 8, logging.CRITICAL: 8}


class SlogFormatter(logging.Formatter):
    """A record and its `extra` values as one line of slog text."""

    def __init__(self, rank: int | None = None) -> None:
        """rank: of this process among several, which write to one pipe."""
        super().__init__()
        self._rank = rank

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        pairs = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": "TRACE" if record.levelno < logging.DEBUG else _LEVEL_NAMES.get(record.levelno, "INFO"),
            "source": f"{record.filename}:{record.lineno}",
        } | ({} if self._rank is None else {"rank": str(self._rank)})
        head = " ".join(f"{key}={value}" for key, value in pairs.items())
        values = {"msg": record.getMessage()}
        values |= {key: value for key, value in record.__dict__.items() if key not in STANDARD}
        if record.exc_info:
            values["err"] = self.formatException(record.exc_info)
        tail = " ".join(f"{key}={_quoted(str(value))}" for key, value in values.items())
        return _cut(calm(f"{head} {tail}"))


_LEVEL_NAMES = {logging.WARNING: "WARN", logging.ERROR: "ERROR", logging.CRITICAL: "ERROR"} | {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
}


def calm(line: str) -> str:
    """Break up the words that a host takes for an error's beginning."""
    return ALARMS.sub(_broken, line)


def _broken(match: re.Match[str]) -> str:
    text = match.group()
    if text.endswith(":"):
        return f"{text[:-1]} :"
    return text.replace(" ", "_") if " " in text else f"{text[:2]}_{text[2:]}"


def _quoted(value: str) -> str:
    """As slog does: bare if harmless, else a quoted string with escapes, always one line."""
    if value and all(c.isprintable() and c not in ' "=' for c in value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _cut(line: str) -> str:
    """At most MAX_LINE characters, still slog text: a quoted value that is cut gets its closing quote."""
    kept = line[:MAX_LINE]
    if len(line) > MAX_LINE and re.sub(r"\\.", "", kept).count('"') % 2:
        return kept[:-1].rstrip("\\") + '"'
    return kept


class PipeHandler(logging.Handler):
    """Hands lines to a thread that writes them; never blocks, whatever the reader does."""

    def __init__(self, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(QUEUED_LINES)
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        while True:
            try:
                return self._lines.put_nowait(line)
            except queue.Full:
                self._drop_oldest()

    def drain(self, timeout_s: float) -> None:
        """Wait until everything is written, or for so long."""
        deadline = time.monotonic() + timeout_s
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.002)

    def _drop_oldest(self) -> None:
        try:
            self._lines.get_nowait()
            self._lines.task_done()
        except queue.Empty:
            pass

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            with contextlib.suppress(OSError):  # the reader is gone: the parent watch decides what that means
                os.write(self._descriptor, f"{line}\n".encode(errors="replace"))
            self._lines.task_done()


def start(slog_level: int, rank: int | None = None) -> PipeHandler:
    """Send every log record of the process at or above the level to stderr. rank: see `SlogFormatter`."""
    handler = PipeHandler()
    handler.setFormatter(SlogFormatter(rank))
    logging.basicConfig(level=python_level(slog_level), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, python_level(slog_level)))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return handler


def python_level(slog_level: int) -> int:
    """slog -8, -4, 0, 4, 8 on Python's scale; what lies between rounds to the quieter one."""
    if slog_level <= -8:
        return TRACE
    return next((python for python, slog in SLOG.items() if slog >= slog_level), logging.CRITICAL)
