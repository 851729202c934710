"""What is seen of a runner that clients ask: pings from a process of their own, and samples of what it holds."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.load_report import percentile

from reliability.process import Process

PING_EVERY_S = 0.05
REST_S = 8.0  # a runner that has nothing to do gives buffers back after five
SKIPPED = 0.2  # of the samples: the first fifth warms up
MS = 1000
PERCENTILES = (50, 99)


@dataclass(frozen=True)
class Sample:
    minute: float
    requests: int
    resident_bytes: int
    held_bytes: int  # by MLX
    files: int
    threads: int


def sample(process: Process, began: float, requests: int) -> Sample:
    footprint = process.footprint()
    health = json.loads(process.ask("GET", "/health").body)
    return Sample(
        round((time.monotonic() - began) / 60, 3),
        requests,
        footprint.resident_bytes,
        health["Memory"],
        footprint.files,
        footprint.threads,
    )


def at_rest(process: Process, requests: int, began: float, rest_s: float = REST_S) -> Sample:
    """When nobody asks any more, the cache is emptied and unused buffers were given back."""
    process.ask("DELETE", "/v1/cache")
    time.sleep(rest_s)
    return sample(process, began, requests)


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Bytes for each request, by a straight line through all samples but the first."""
    kept = samples[int(len(samples) * SKIPPED) :]
    asked = [float(one.requests) for one in kept]
    if len(set(asked)) < 2:
        return {}
    return {
        name: round(statistics.linear_regression(asked, values).slope, 1)
        for name, values in {
            "resident_bytes_per_request": [float(one.resident_bytes) for one in kept],
            "held_bytes_per_request": [float(one.held_bytes) for one in kept],
        }.items()
    }


@contextlib.contextmanager
def pinging(port: int, into: Path) -> Iterator[None]:
    """Another process asks /health all the time, as this one has its own clients to wait for."""
    command = [sys.executable, sys.argv[0], "--ping", str(port), str(into)]
    with subprocess.Popen(command) as pings:
        try:
            yield
        finally:
            pings.terminate()


def ping_on(port: int, into: Path) -> None:
    """Write the milliseconds of each ping, one a line, until this process is ended."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with into.open("w", buffering=1) as file:
        while True:
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            file.write(f"{(time.perf_counter() - began) * MS:.3f}\n")
            time.sleep(PING_EVERY_S)


def pings(path: Path) -> dict[str, Any]:
    took = sorted(float(line) for line in path.read_text().splitlines()[:-1])
    if not took:
        return {"pings": 0}
    named = {f"p{share}_ms": percentile(took, share / 100) for share in PERCENTILES}
    return {"pings": len(took), **named, "max_ms": took[-1]}


def as_records(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return [asdict(one) for one in samples]
