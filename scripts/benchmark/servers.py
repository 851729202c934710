"""A server as a process of its own, and what a runner answers over HTTP. It may be of another checkout.

Knows nothing about the runner's insides.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmark.samples import Bias, Prompt, Sample, Trouble, decode_rate

NS_PER_S = 1_000_000_000
POLL_S = 0.005
START_LIMIT_S = 600.0


@dataclass(frozen=True)
class Server:
    """A spawned server: where it listens, when it first answered at all and when it first said 200."""

    port: int
    answered_s: float
    ready_s: float
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait()


def own_command() -> list[str]:
    """The installed console script of this checkout."""
    beside = Path(sys.executable).parent / "mlx-runner"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "api"]


def command_of(checkout: Path) -> list[str]:
    """The one that scripts/install made there."""
    path = checkout / ".venv" / "bin" / "mlx-runner"
    if not path.exists():
        raise Trouble(f"{path} is not there: run scripts/install in {checkout}")
    return [str(path)]


@contextlib.contextmanager
def spawned(command: Sequence[str], model: str, name: str = "the runner") -> Iterator[Server]:
    """From spawn to the first 200, then until the end of the block. name: what an error calls it."""
    port = _free_port()
    # A PYTHONPATH would put one checkout's code in front of another's.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--model", model, "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            answered = 0.0
            while (status := _health(port)) != 200:
                now = time.perf_counter() - began
                answered = answered or (now if status else 0.0)
                if process.poll() is not None or now > START_LIMIT_S:
                    raise Trouble(f"{name} did not start: {_last_line(errors)}")
                time.sleep(POLL_S)
            ready = time.perf_counter() - began
            yield Server(port, answered or ready, ready, process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Clocks:
    """The same request by the server's own counters, and by the client's clock."""

    server: Sample
    client: Sample


def run_http(port: int, prompt: Prompt, count: int, bias: Bias) -> Clocks:
    """One request over a fresh connection."""
    options = {"num_predict": count, "logit_bias": {str(token): value for token, value in bias}}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.perf_counter()
    body = {"prompt": prompt.text, "options": options, "includeIntermediateMetrics": True}
    connection.request("POST", "/completion", json.dumps(body))
    response = connection.getresponse()
    if response.status != 200:
        raise Trouble(f"the runner answered {response.status}: {response.read().decode().strip()}")
    lines: list[bytes] = []
    times: list[float] = []
    while line := response.readline():
        times.append(time.perf_counter())
        lines.append(line)
    connection.close()
    records = [json.loads(line) for line in lines]
    last = records[-1]
    if "Error" in last:
        raise Trouble(f"the runner failed: {last['Error']['error']}")
    text = "".join(record["content"] for record in records)
    generated, prompt_s = last["eval_count"], last["prompt_eval_duration"] / NS_PER_S
    new = last["prompt_eval_count"] - last["PromptEvalCachedCount"]
    decode = decode_rate(generated, last["eval_duration"] / NS_PER_S)
    first_s = times[0] - began
    rest = generated - records[0]["eval_count"] + 1
    return Clocks(
        server=Sample(new / prompt_s, decode, prompt_s, text, {}),
        client=Sample(new / first_s, decode_rate(rest, times[-1] - times[0]), first_s, text, {}),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _health(port: int) -> int:
    """The status of /health; 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
