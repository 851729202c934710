"""Many clients at once: each is a thread with a connection of its own and asks one question after the other.

Knows nothing about which server answers.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Sequence

from benchmark.answers import SILENT_S, Answer, Dialect, Question, Raw, ask, understood


def answers_of(
    port: int, dialect: Dialect, warm_ups: Sequence[Question], plans: Sequence[Sequence[Question]]
) -> list[list[Answer]]:
    """What each client got. plans: each client's questions, which all begin when every warm-up was answered."""
    start = threading.Barrier(len(plans))
    read: list[list[Raw]] = [[] for _ in plans]

    def client(warm_up: Question, plan: Sequence[Question], found: list[Raw]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SILENT_S)
        ask(connection, dialect, warm_up)
        start.wait()
        for question in plan:
            found.append(ask(connection, dialect, question))
        connection.close()

    # Daemons, so that Ctrl-C need not wait for answers.
    threads = [
        threading.Thread(target=client, args=each, daemon=True)
        for each in zip(warm_ups, plans, read, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [[understood(dialect, raw) for raw in found] for found in read]
