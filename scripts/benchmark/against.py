"""Two checkouts against one another: a runner of each, the same prompts to both in turn, quotients in each round.

Everything goes over HTTP, so it does not matter how either is built inside. The figures are each server's own.

Knows nothing about mlx-lm.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import inside, models
from benchmark.samples import Bias, Prompt, Sample, Trouble, interval, median, ratios, rounded, speeds
from benchmark.servers import command_of, run_http, spawned

OURS = Path(__file__).parent.parent.parent
ROUNDS_A_START = 8
SIDES = (0, 1)

Pair = tuple[Sample, Sample]
"""This checkout's and the other's, for the same prompt."""


def measure(model: str, other: Path, prompt_tokens: int, count: int, rounds: int) -> dict[str, Any]:
    """Run all rounds; the report that becomes the last line."""
    if not other.is_dir():
        raise Trouble(f"{other} is no directory; name another checkout")
    folder = models.folder_of(model)
    checkouts = (OURS, other.resolve())
    tokenizer = inside.tokenizer_of(str(folder))
    bias = models.endless(tokenizer)
    prompts = [models.make_prompt(tokenizer, number, prompt_tokens) for number in range(-1, rounds)]
    pairs: list[Pair] = []
    for start in range(0, rounds, ROUNDS_A_START):
        some = prompts[start : start + ROUNDS_A_START + 1]  # the first of which warms up
        pairs += alternated(
            checkouts, str(folder), some, count, bias, second_first=bool(start // ROUNDS_A_START % 2)
        )[1:]
    this, that = ([pair[side] for pair in pairs] for side in SIDES)
    return models.circumstances(model, folder, prompts[-1], count, rounds) | {
        "checkouts": {"this": described(checkouts[0]), "other": described(checkouts[1])},
        "tokens_per_s": {"this": speeds(this), "other": speeds(that)},
        "this / other": {what: summary(found) for what, found in ratios(this, that).items()},
        "same_text": all(a.text == b.text for a, b in pairs),
    }


def alternated(
    checkouts: tuple[Path, Path],
    model: str,
    prompts: Sequence[Prompt],
    count: int,
    bias: Bias,
    *,
    second_first: bool,
) -> list[Pair]:
    """Start a runner of each, in either order, and put every prompt to both, each first in every other round.

    They are started afresh now and then, since of two processes of the same code one may be faster all along.
    """
    order = SIDES[::-1] if second_first else SIDES
    with contextlib.ExitStack() as stack:
        ports = {
            side: stack.enter_context(spawned(command_of(checkouts[side]), model)).port for side in order
        }
        pairs: list[Pair] = []
        for number, prompt in enumerate(prompts):
            turn = SIDES[::-1] if number % 2 else SIDES
            found = {side: run_http(ports[side], prompt, count, bias).server for side in turn}
            pairs.append((found[0], found[1]))
    return pairs


def summary(found: Sequence[float]) -> dict[str, Any]:
    """Quotients of one kind. The interval is that of the starts' medians: rounds of one start are too alike."""
    starts = [
        statistics.median(found[at : at + ROUNDS_A_START]) for at in range(0, len(found), ROUNDS_A_START)
    ]
    low, high = interval(starts)
    return {
        "median": median(found),
        "95%": [rounded(low), rounded(high)],
        "rounds": [rounded(value) for value in found],
    }


def described(checkout: Path) -> str:
    """Its folder and, where git knows one, its commit; `+` stands for changes that are in no commit."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(git, capture_output=True, text=True)
        if done.returncode == 0:
            return f"{checkout} ({done.stdout.strip()})"
    return str(checkout)


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    print(f"{'':8}{'prefill tok/s':>15}{'decode tok/s':>15}   checkout")
    for name, speed in report["tokens_per_s"].items():
        print(f"{name:8}{speed['prefill']:15.1f}{speed['decode']:15.1f}   {report['checkouts'][name]}")
    print("\nthis / other, the median of the rounds, and where the true one lies in 95 cases of 100:")
    for what, found in report["this / other"].items():
        low, high = found["95%"]
        print(f"  {what:10}{found['median']:8.3f}   {low:.3f} ... {high:.3f}")
    print(f"\nthe same text from both: {report['same_text']}")
