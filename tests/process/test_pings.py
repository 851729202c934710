"""Pings while the machine is busy."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts.processes import hosted
from tests.parts.streams import Request, ask, post


def pinged(port: int, busy: list[bool]) -> list[float]:
    """Seconds per ping, on a kept connection, one after another while `busy` is not empty."""
    took = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while busy:
        asked = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        took.append(time.perf_counter() - asked)
        time.sleep(0.005)
    connection.close()
    return took


def summary(took: list[float]) -> str:
    worst = sorted(took)[-1]
    return f"{len(took)} pings, median {statistics.median(took) * 1e3:.1f} ms, worst {worst * 1e3:.1f} ms"


def test_pings_are_answered_all_through_a_long_prefill(slow_model: Path) -> None:
    with hosted(slow_model) as running, ThreadPoolExecutor(1) as pool:
        busy = [True]
        with Request(running.port, ask("x" * 4096, 1)) as request:
            request.started()
            pings = pool.submit(pinged, running.port, busy)
            request.response.read()
            busy.clear()
        took = pings.result()
    print(f"prefill of 4,096 tokens: {summary(took)}")
    assert len(took) > 20
    assert statistics.median(took) < 0.05


@pytest.mark.slow
def test_pings_are_answered_all_through_a_load(tiny_model: Path, big_model: Path) -> None:
    with hosted(tiny_model) as running, ThreadPoolExecutor(1) as pool:
        busy = [True]
        pings = pool.submit(pinged, running.port, busy)
        assert post(running.port, "/load", json.dumps({"model": str(big_model)}))[0] == 200
        busy.clear()
        took = pings.result()
    print(f"load of half a gigabyte: {summary(took)}")
    assert len(took) > 5
    assert statistics.median(took) < 0.05
