"""Load over HTTP: the runner and mlx_lm.server in turn, for each number of clients.

Both servers run all the time: A is asked by 1 client, B by 1, B by 2, A by 2 and so on. Every number has questions
of its own, the same for both servers, so none finds one in its cache. At the end a single client asks each server,
freshly started, one question after the other, and the answers under load must be those, or their beginnings where
clients left.

Questions are of three lengths, and of every eight one is left half-way.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from benchmark import inside, models, reference_server
from benchmark.answers import OPENAI, RUNNER, Answer, Dialect, Question
from benchmark.clients import answers_of
from benchmark.load_report import rate, summary, whole_span
from benchmark.samples import Trouble
from benchmark.servers import own_command, spawned

OURS, THEIRS = "runner", "mlx_lm.server"
SHORTER = (16, 4, 1)  # a prompt's length is --prompt over one of these
SHORTEST = 8  # tokens; with fewer, prompts would begin alike
EIGHT, LEAVES = 8, 5  # of every eight questions the sixth
CHECKED = 64  # so many answers at most are compared with the one that a client alone gets


@dataclass(frozen=True)
class Side:
    name: str
    command: Sequence[str]
    dialect: Dialect


def measure(
    model: str,
    prompt_tokens: int,
    count: int,
    rounds: int,
    *,
    clients: Sequence[int],
    parallel: int | None,
    with_mlx_lm: bool,
) -> dict[str, Any]:
    """Run all numbers of clients; the report that becomes the last line. rounds: questions a client."""
    folder = models.folder_of(model)
    lengths = [max(prompt_tokens // divisor, min(prompt_tokens, SHORTEST)) for divisor in SHORTER]
    tokenizer = inside.tokenizer_of(str(folder))
    total = sum(clients) * rounds
    prompts = [models.make_prompt(tokenizer, n, lengths[n % 3]) for n in range(total + max(clients))]
    bias = models.endless(tokenizer)
    questions = [Question(n, prompt.text, count, bias, _leaves(n, count)) for n, prompt in enumerate(prompts)]
    warm_ups = [replace(question, leave_after=None) for question in questions[total:]]
    plans = _plans(questions, clients, rounds)
    sides = [Side(OURS, [*own_command(), *_slots(parallel)], RUNNER)]
    if with_mlx_lm:
        sides.append(Side(THEIRS, reference_server.command(), OPENAI))

    found: dict[str, dict[int, list[list[Answer]]]] = {side.name: {} for side in sides}
    with ExitStack() as running:
        ports = {
            side.name: running.enter_context(spawned(side.command, str(folder), side.name)).port
            for side in sides
        }
        for turn, number in enumerate(clients):
            for side in sides[::-1] if turn % 2 else sides:
                answers = _answers(side, ports[side.name], warm_ups[:number], plans[number])
                found[side.name][number] = answers
                print(f"{number} clients, {side.name}: {_whole_rate(answers):.1f} tok/s", file=sys.stderr)
    checked = [replace(question, leave_after=None) for question in _some(questions[:total])]
    alone = {side.name: _alone(side, str(folder), warm_ups[:1], checked) for side in sides}

    longest = prompts[lengths.index(max(lengths))]
    return models.circumstances(model, folder, longest, count, rounds) | {
        "clients": list(clients),
        "parallel": parallel,
        "prompt_lengths": lengths,
        "load": {
            name: {str(number): summary(levels[number], alone[name]) for number in clients}
            for name, levels in found.items()
        },
        "alone": {"asked": len(checked), "same_on_both": _agreed(list(alone.values()))},
    }


def _slots(parallel: int | None) -> list[str]:
    return [] if parallel is None else ["--parallel", str(parallel)]


def _leaves(number: int, count: int) -> int | None:
    return count // 2 if number % EIGHT == LEAVES else None


def _some(questions: Sequence[Question]) -> list[Question]:
    """All, or where these are too many, some of every length."""
    return random.Random(0).sample(questions, min(CHECKED, len(questions)))


def _plans(
    questions: Sequence[Question], clients: Sequence[int], rounds: int
) -> dict[int, list[Sequence[Question]]]:
    """For each number of clients the questions of each client."""
    rest = iter(questions)
    return {number: [[next(rest) for _ in range(rounds)] for _ in range(number)] for number in clients}


def _whole_rate(answers: Sequence[Sequence[Answer]]) -> float:
    flat = [answer for found in answers for answer in found]
    return rate(flat, *whole_span(flat))


def _answers(
    side: Side, port: int, warm_ups: Sequence[Question], plans: Sequence[Sequence[Question]]
) -> list[list[Answer]]:
    found = answers_of(port, side.dialect, warm_ups, plans)
    if not any(answer.arrivals for answers in found for answer in answers):
        raise Trouble(f"{side.name} answered nothing: {found[0][0].trouble}")
    return found


def _alone(
    side: Side, model: str, warm_ups: Sequence[Question], questions: Sequence[Question]
) -> dict[int, str]:
    """Number of a question -> the answer's text, where there is one."""
    with spawned(side.command, model, side.name) as server:
        (answers,) = _answers(side, server.port, warm_ups, [questions])
    return {answer.question.number: answer.text for answer in answers if not answer.trouble}


def _agreed(texts: Sequence[Mapping[int, str]]) -> int | None:
    """How many questions both servers answered alike; None where there is one server.

    mlx-lm leaves out white space at the beginning of a text.
    """
    if len(texts) < 2:
        return None
    ours, theirs = texts
    return sum(theirs[number].lstrip() == text.lstrip() for number, text in ours.items() if number in theirs)
