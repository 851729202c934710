"""A host that was told to answer several clients at once tells its runner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import pytest

from tests.parts.hosts import Host, serving

CLIENTS = 4
GREEDY = {"temperature": 0, "num_predict": 100}
LIVELY = {"temperature": 1, "num_predict": 100}
ASKED: Sequence[tuple[str, dict[str, Any]]] = (
    ("/api/generate", {"prompt": "one", "options": GREEDY}),
    ("/api/generate", {"prompt": "two", "options": LIVELY | {"seed": 2}}),
    ("/api/chat", {"messages": [{"role": "user", "content": "three"}], "options": GREEDY}),
    ("/api/chat", {"messages": [{"role": "user", "content": "four"}], "options": LIVELY | {"seed": 4}}),
)


class Streamed(NamedTuple):
    """A text, and when its first record came and its last."""

    text: str
    first: float
    last: float


def streamed(host: Host, path: str, body: dict[str, Any]) -> Streamed:
    arrivals, pieces = [], []
    with host.stream(path, model="endless", **body) as records:
        for record in records:
            arrivals.append(time.monotonic())
            pieces.append(record["response"] if path == "/api/generate" else record["message"]["content"])
    return Streamed("".join(pieces), arrivals[0], arrivals[-1])


def test_clients_at_once_are_answered_at_once_and_as_each_is_alone(
    program: Path, store: Path, tmp_path: Path
) -> None:
    if program.parent.parent.name == "v0.17.4":
        pytest.skip("hosts before v0.21.1 pass no seed on, and one version tells enough")
    with serving(program, store, tmp_path, OLLAMA_NUM_PARALLEL=str(CLIENTS)) as host:
        alone = [streamed(host, *asked).text for asked in ASKED]
        assert len(set(alone)) == CLIENTS
        together = Barrier(CLIENTS)

        def client(asked: tuple[str, dict[str, Any]]) -> Streamed:
            together.wait()
            return streamed(host, *asked)

        with ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(client, ASKED))
    assert [one.text for one in found] == alone
    # Everybody's text had begun before anybody's was whole.
    assert max(one.first for one in found) < min(one.last for one in found)
