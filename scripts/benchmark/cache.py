"""What is kept of a chat: the first token of its next turn, of that regenerated, and of that edited.

In every round, for every length of a chat: a fresh runner reads it (cold), and once that is on the disk, it answers
the three others from memory. It is killed (SIGKILL), and a runner for each of the three finds on the disk what the
one before left there. Then mlx_lm.server is asked the same four; it keeps nothing on the disk.

A disk is as slow as it may be: what the system holds of the files in memory is dropped before each start.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import inside, models, reference_server
from benchmark.answers import OPENAI, RUNNER, SILENT_S, Answer, Dialect, Question, ask, understood
from benchmark.conversation import Conversation, conversation
from benchmark.growth import require_room
from benchmark.samples import Bias, Trouble, median
from benchmark.servers import Server, own_command, spawned

MEMORY, DISK, THEIRS = "from memory", "from the disk", "mlx_lm.server"
COLD, NEXT, AGAIN, EDITED = "cold", "next turn", "regenerated", "edited"
KINDS = (NEXT, AGAIN, EDITED)
WARM_UP = "a warm-up " * 60  # more than a chunk
SAVED_S, POLL_S = 120.0, 0.1


@dataclass(frozen=True)
class First:
    """A question's first token: when it came, how many tokens of the prompt were fed for it, and the answer."""

    seconds: float
    fed: int
    text: str


Round = dict[str, dict[str, First]]
"""Where it came from -> kind of question -> what was seen."""


@dataclass(frozen=True)
class Client:
    """Asks one model. count: tokens of an answer."""

    count: int
    bias: Bias

    def begin(self, server: Server, dialect: Dialect, chat: Conversation) -> First:
        """The chat's first answer, behind a warm-up."""
        self.ask(server, dialect, WARM_UP)
        return self.ask(server, dialect, chat.first)

    def ask(self, server: Server, dialect: Dialect, text: str) -> First:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SILENT_S)
        raw = ask(connection, dialect, Question(0, text, self.count, self.bias))
        connection.close()
        answer = understood(dialect, raw)
        if answer.trouble:
            raise Trouble(f"a server failed: {answer.trouble}")
        fed = fed_for(json.loads(raw.lines[-1][1].removeprefix(b"data: ")))
        return First(_first_at(answer) - answer.sent_at, fed, answer.text)


def fed_for(last: Mapping[str, Any]) -> int:
    """Tokens of the prompt that were not kept, as the last record says."""
    if "usage" in last:
        usage = last["usage"]
        kept: int = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return int(usage["prompt_tokens"]) - kept
    return int(last["prompt_eval_count"]) - int(last["PromptEvalCachedCount"])


def _first_at(answer: Answer) -> float:
    return next(arrival.at for arrival in answer.arrivals if arrival.tokens)


def measure(
    model: str, lengths: Sequence[int], asked: int, count: int, rounds: int, *, with_mlx_lm: bool
) -> dict[str, Any]:
    """The report that becomes the last line. asked: tokens of a new question."""
    folder = models.folder_of(model)
    tokenizer = inside.tokenizer_of(str(folder))
    require_room(inside.context_of(str(folder)), max(lengths), 2 * (asked + count))
    client = Client(count, models.endless(tokenizer))
    found: dict[int, list[Round]] = {length: [] for length in lengths}
    for number in range(rounds):
        for place, length in enumerate(lengths):
            chat = conversation(tokenizer, number * len(lengths) + place, length, asked)
            found[length].append(_round(str(folder), client, chat, with_mlx_lm=with_mlx_lm))
            print(f"round {number + 1}, {length} tokens: done", file=sys.stderr)
    prompt = models.make_prompt(tokenizer, 0, asked)
    return (
        models.circumstances(model, folder, prompt, count, rounds)
        | {"lengths": list(lengths)}
        | {"cache": {str(length): summary(some) for length, some in found.items()}}
    )


def _round(model: str, client: Client, chat: Conversation, *, with_mlx_lm: bool) -> Round:
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as kept:
        folder = Path(kept)
        with _runner(model, folder) as server:
            first = client.begin(server, RUNNER, chat)
            _wait_saved(server, folder, set())
            prompts = _changed(chat, first.text)
            found = {
                MEMORY: {COLD: first} | {kind: client.ask(server, RUNNER, prompts[kind]) for kind in KINDS}
            }
            server.kill()
        found[DISK] = {
            kind: _restored(model, folder, client, prompts[kind], saves=kind == NEXT) for kind in KINDS
        }
    if with_mlx_lm:
        with spawned(reference_server.command(), model, THEIRS) as server:
            first = client.begin(server, OPENAI, chat)
            found[THEIRS] = {COLD: first} | {
                kind: client.ask(server, OPENAI, prompts[kind]) for kind in KINDS
            }
    return found


def _changed(chat: Conversation, answer: str) -> dict[str, str]:
    again = chat.next_turn(answer)
    return {NEXT: again, AGAIN: again, EDITED: chat.edited(answer)}


def _restored(model: str, folder: Path, client: Client, prompt: str, *, saves: bool) -> First:
    """What a new process says, which is killed then, once it has saved that if it is to."""
    before = _entries(folder)
    _drop_from_memory(folder)
    with _runner(model, folder) as server:
        found = client.ask(server, RUNNER, prompt)
        if saves:
            _wait_saved(server, folder, before)
        server.kill()
    return found


def _runner(model: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    return spawned([*own_command(), "--cache-dir", str(folder)], model)


def _entries(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.safetensors")}


def _wait_saved(server: Server, folder: Path, before: set[str]) -> None:
    """Until there is an entry that was not there before. Raises Trouble."""
    deadline = time.monotonic() + SAVED_S
    while _entries(folder) <= before:
        if time.monotonic() > deadline or server.process.poll() is not None:
            raise Trouble(
                f"nothing was saved within {SAVED_S:.0f} s; less than 64 tokens are not, nor mlx-lm's models"
            )
        time.sleep(POLL_S)


def _drop_from_memory(folder: Path) -> None:
    """As if the machine had been started anew; only Linux can be asked to."""
    if sys.platform == "linux":
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians of the seconds; of_cold: of the quotients within a round."""
    return {
        place: {
            kind: _figures([found[place][kind] for found in rounds], _cold(rounds, place)) for kind in kinds
        }
        for place, kinds in rounds[0].items()
    }


def _cold(rounds: Sequence[Round], place: str) -> list[float]:
    return [found[THEIRS if place == THEIRS else MEMORY][COLD].seconds for found in rounds]


def _figures(found: Sequence[First], cold: Sequence[float]) -> dict[str, float]:
    return {
        "first_token_s": median([one.seconds for one in found]),
        "of_cold": median([one.seconds / whole for one, whole in zip(found, cold, strict=True)]),
        "fed_tokens": median([one.fed for one in found]),
    }


def described(report: dict[str, Any]) -> str:
    """What was run, in a line."""
    return (
        f"chats of {', '.join(map(str, report['lengths']))} tokens, questions of {report['prompt_tokens']},"
        f" {report['generated_tokens']} out, medians of {report['rounds']} rounds"
    )


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    print(f"{'chat':>8}  {'':16}{'':14}{'first token s':>15}{'cold / it':>12}{'tokens fed':>12}")
    for length, places in report["cache"].items():
        for place, kinds in places.items():
            for kind, one in kinds.items():
                times = "" if kind == COLD else f"{1 / one['of_cold']:.1f}"
                figures = f"{one['first_token_s']:15.3f}{times:>12}{one['fed_tokens']:12.0f}"
                print(f"{length:>8}  {place:16}{kind:14}{figures}")
