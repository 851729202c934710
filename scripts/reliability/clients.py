"""Clients that ask one thing after the other: most stay to the end, others leave anywhere, read slowly, or ask for
a fault.

What a client does next is drawn by its own chance, of the seed and its number.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmark.models import WORDS

from reliability.process import SILENT_S
from reliability.replies import Wrong, check_stream

VOCABULARY = WORDS.split()
LEAVERS = ("before the body", "at once", "queued", "in the stream", "with a reset")
FAULTS = ("[[decode 3: error]]", "[[prefill 1: error]]", "[[decode 9: error]]", "[[decode 2: memory]]")
PROMPT_WORDS, LONG_PROMPT_WORDS = 40, 300
TOKENS = 40
RECORDS = 12  # that who leaves in mid-stream has read at most
WAITS_S = 0.3  # at most, until who is queued leaves
HEAD = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
PAUSE_S = 0.02  # between two reads of who reads slowly
LOOKED_FOR_S = 1.0


@dataclass(frozen=True)
class Share:
    """Of all requests."""

    leaves: float
    errors: float


class Clients:
    """Threads that ask until they are told to stop. outcomes: what came of how many requests."""

    def __init__(self, port: int, number: int, seed: str, share: Share) -> None:
        self._port = port
        self._share = share
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.troubles: list[str] = []
        self._threads = [
            threading.Thread(target=self._ask_on, args=(random.Random(f"{seed}/{n}"),), daemon=True)
            for n in range(number)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish what it began."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * SILENT_S)

    @property
    def requests(self) -> int:
        with self._counting:
            return sum(self.outcomes.values())

    def _ask_on(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            try:
                outcome = self._one(chance)
            except Wrong as error:
                outcome = "lost"
                self._tell(str(error))
            except TimeoutError:
                outcome = "hung"
                self._tell(f"nothing for {SILENT_S} s")
            except (OSError, http.client.HTTPException) as error:
                outcome = "lost"
                self._tell(f"{type(error).__name__}: {error}")
                self._stop.wait(LOOKED_FOR_S)  # a runner that is gone is asked no thousand times a second
            with self._counting:
                self.outcomes[outcome] += 1

    def _tell(self, trouble: str) -> None:
        with self._counting:
            self.troubles.append(trouble)

    def _one(self, chance: random.Random) -> str:
        data = json.dumps(self._body(chance)).encode()
        if chance.random() < self._share.leaves:
            return f"left {self._leave(chance, data)}"
        return self._stay(chance, data)

    def _body(self, chance: random.Random) -> dict[str, Any]:
        words = chance.choices(
            VOCABULARY, k=chance.choice((3, PROMPT_WORDS, PROMPT_WORDS, LONG_PROMPT_WORDS))
        )
        options: dict[str, Any] = {"num_predict": chance.randint(1, TOKENS)}
        body: dict[str, Any] = {"prompt": " ".join(words), "options": options}
        if chance.random() < self._share.errors:
            body["prompt"] += chance.choice(FAULTS)
        if chance.random() < 0.5:
            options |= {"temperature": 0.9, "top_p": 0.9, "seed": chance.getrandbits(31)}
        if chance.random() < 0.1:
            body |= {"logprobs": True, "top_logprobs": 5}
        if chance.random() < 0.1:
            body["format"] = chance.choice(("json", {"type": "choice", "choices": ["yes", "no"]}))
        if chance.random() < 0.1:
            body["stream"] = False
        return body

    def _leave(self, chance: random.Random, data: bytes) -> str:
        """Where it left."""
        how = chance.choice(LEAVERS)
        head = HEAD % len(data)
        with socket.create_connection(("127.0.0.1", self._port), timeout=SILENT_S) as connection:
            if how == "before the body":
                connection.sendall(head + data[: chance.randrange(len(data))])
                return how
            connection.sendall(head + data)
            if how == "queued":
                self._stop.wait(chance.uniform(0, WAITS_S))
            if how in ("in the stream", "with a reset"):
                for _ in range(chance.randint(1, RECORDS)):
                    if not connection.recv(4096):
                        break
            if how == "with a reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return how

    def _stay(self, chance: random.Random, data: bytes) -> str:
        """Read all of it, and know how it ended. Raises Wrong if it did not."""
        is_slow = chance.random() < 0.05
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENT_S)
        with contextlib.closing(connection):
            connection.request("POST", "/completion", data)
            response = connection.getresponse()
            body = _slowly(response.read1) if is_slow else response.read()
        if response.status != 200:
            return f"refused with {response.status}"
        end = check_stream(body)
        return "an error at the end" if "Error" in end else "finished"


def _slowly(read: Callable[[int], bytes]) -> bytes:
    body = b""
    while block := read(256):
        body += block
        time.sleep(PAUSE_S)
    return body
