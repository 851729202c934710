"""What a kind of input is: how one is made, and how a runner is given it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reliability.process import Process
from reliability.replies import Wrong, check_error, check_stream

SENTENCE = "the answer that is always the same"
GOLDEN_TOKENS = 12


class Kind:
    """One kind of input. folder: its own, for what it writes. model: the one that the runner begins with."""

    name = ""
    share = 1.0  # of all inputs, beside the other kinds' shares

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model

    @property
    def arguments(self) -> Sequence[str]:
        """For the runner."""
        return ()

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    def begin(self, process: Process) -> None:
        """Called with each new process."""

    def make(self, chance: random.Random) -> bytes:
        """An input; the same one of the same chance."""
        raise NotImplementedError

    def give(self, process: Process, data: bytes) -> str:
        """What became of it, in a word. Raises Wrong, Gone or Hangs."""
        raise NotImplementedError

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may tell."""
        return (str(self.folder), str(self.model), "/site-packages/")


def completion(process: Process, prompt: str, tokens: int = 4, **fields: Any) -> dict[str, Any]:
    """The end of a greedy answer, which has its whole text. Raises Wrong if it was refused."""
    body = {"prompt": prompt, "options": {"num_predict": tokens, "logit_bias": {"256": -1e4}}} | fields
    reply = process.ask("POST", "/completion", json.dumps(body).encode())
    if reply.status != 200:
        raise Wrong(f"a completion was answered {reply.status}: {reply.body[:300]!r}")
    return check_stream(reply.body)


def golden(process: Process) -> str:
    """What the model says to SENTENCE."""
    text: str = completion(process, SENTENCE, GOLDEN_TOKENS)["text"]
    return text


def loaded(process: Process, reference: str, secrets: Sequence[str]) -> bool:
    """Load a model; False if it was refused, in words. Raises Wrong."""
    reply = process.ask("POST", "/load", json.dumps({"model": reference}).encode())
    if reply.status != 200:
        check_error(reply, (400, 404, 500), secrets)
    return reply.status == 200


def tried(process: Process, prompts: Sequence[str]) -> str:
    """Ask a model that was loaded from odd files: an answer, or a refusal of the request or of its numbers."""
    found = set()
    for prompt in prompts:
        body = {"prompt": prompt, "options": {"num_predict": 3}}
        reply = process.ask("POST", "/completion", json.dumps(body).encode())
        if reply.status == 200:
            end = check_stream(reply.body)
            found.add("answered, then an error" if "Error" in end else "answered")
        else:
            check_error(reply, (400, 500))
            found.add("loaded, then refused")
    return sorted(found)[-1]
