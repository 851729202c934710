"""What clients got becomes figures, and figures become a table.

Knows nothing about how the answers came about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmark.answers import Answer
from benchmark.samples import rounded

HEAD = ("busy", "times", "whole", "p50", "p99", "p50", "p99", "worst", "failed", "differ")
WIDTHS = (9, 7, 8, 9, 9, 7, 7, 8, 8, 9)


def summary(clients: Sequence[Sequence[Answer]], alone: Mapping[int, str]) -> dict[str, Any]:
    """A load's figures. alone: what a client alone got, by number of question."""
    answers = [answer for found in clients for answer in found]
    gaps = [gap for answer in answers for gap in _gaps(answer)]
    first = [answer.arrivals[0].at - answer.sent_at for answer in answers if answer.arrivals]
    failed = [answer.trouble for answer in answers if answer.trouble]
    compared = [answer for answer in answers if answer.question.number in alone and not answer.trouble]
    return {
        "tokens_per_s": rounded(_busy_rate(clients)),
        "tokens_per_s_whole": rounded(rate(answers, *whole_span(answers))),
        "first_token_s": {"p50": percentile(first, 0.5), "p99": percentile(first, 0.99)},
        "gap_s": {"p50": percentile(gaps, 0.5), "p99": percentile(gaps, 0.99), "worst": percentile(gaps, 1)},
        "tokens": sum(answer.arrivals[-1].tokens for answer in answers if answer.arrivals),
        "answers": len(answers),
        "left": sum(answer.question.leave_after is not None for answer in answers),
        "failed": len(failed),
        "why": failed[0] if failed else None,
        "compared": len(compared),
        "differ": sum(not _is_true(answer, alone[answer.question.number]) for answer in compared),
    }


def _is_true(answer: Answer, text: str) -> bool:
    """Whoever left has the beginning of the text."""
    if answer.question.leave_after is not None:
        return text.startswith(answer.text)
    return answer.text == text


def _gaps(answer: Answer) -> Iterator[float]:
    """Seconds between two records that brought tokens."""
    times = [at for at, tokens in increments(answer) if tokens]
    return (later - earlier for earlier, later in pairwise(times))


def increments(answer: Answer) -> Iterator[tuple[float, int]]:
    """When how many tokens came."""
    before = 0
    for arrival in answer.arrivals:
        yield arrival.at, arrival.tokens - before
        before = arrival.tokens


def _busy_rate(clients: Sequence[Sequence[Answer]]) -> float:
    """Tokens a second while no client was done with its last question."""
    answers = [answer for found in clients for answer in found]
    began = max(found[0].sent_at for found in clients)
    ends = [whole_span(found)[1] for found in clients]
    return rate(answers, began, min(ends))


def whole_span(answers: Sequence[Answer]) -> tuple[float, float]:
    """From the first question to the last token."""
    began = min(answer.sent_at for answer in answers)
    return began, max((arrival.at for answer in answers for arrival in answer.arrivals), default=began)


def rate(answers: Sequence[Answer], began: float, ended: float) -> float:
    """Tokens a second in that time."""
    tokens = sum(new for answer in answers for at, new in increments(answer) if began < at <= ended)
    return tokens / (ended - began) if ended > began else 0.0


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that such a share of them does not pass; None of none."""
    if not values:
        return None
    return rounded(sorted(values)[max(math.ceil(share * len(values)) - 1, 0)])


def described(report: dict[str, Any]) -> str:
    """The load, in a line."""
    *shorter, longest = report["prompt_lengths"]
    slots = "" if report["parallel"] is None else f", --parallel {report['parallel']}"
    return (
        f"prompts of {', '.join(map(str, shorter))} and {longest} tokens, {report['generated_tokens']} out,"
        f" {report['rounds']} a client, one of eight left half-way{slots}"
    )


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    print(f"{'':24}{'all clients, tok/s':>21}{'first token, ms':>18}{'gap, ms':>21}{'':>8}{'answers':>9}")
    print(f"{'clients':>7} {'':16}{_columns(HEAD)}")
    for number in map(str, report["clients"]):
        for name, levels in report["load"].items():
            base = levels[str(report["clients"][0])]["tokens_per_s"]
            print(f"{number:>7} {name:16}{_row(levels[number], base)}")
    alone = report["alone"]
    print(
        "\nbusy: while no client was done; times: busy, of the first line's; whole: to the last token.\n"
        f"differ: other texts than a client alone gets, who asked {alone['asked']} of the questions"
    )
    if alone["same_on_both"] is not None:
        same = alone["same_on_both"]
        print(f"alone, both servers say the same to {same} of them, but for white space at the beginning")
    for name, levels in report["load"].items():
        for number, found in levels.items():
            if found["why"]:
                print(f"{name} with {number} clients failed, first: {found['why']}")


def _row(found: dict[str, Any], base: float) -> str:
    first, gap = found["first_token_s"], found["gap_s"]
    times = found["tokens_per_s"] / base if base else 0.0
    cells = [
        f"{found['tokens_per_s']:.1f}",
        f"{times:.2f}",
        f"{found['tokens_per_s_whole']:.1f}",
        *(ms(value) for value in (first["p50"], first["p99"], gap["p50"], gap["p99"], gap["worst"])),
        f"{found['failed']}/{found['answers']}",
        f"{found['differ']}/{found['compared']}",
    ]
    return _columns(cells)


def _columns(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"
