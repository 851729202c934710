"""What structured output costs: the pipeline with a grammar and without, in turn, and the grammar's own times.

The grammar is an array of at least a thousand strings: free text inside JSON that does not end by itself. End
tokens are banned on both sides, so both generate as many tokens as asked for, each of them drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmark import inside, models
from benchmark.samples import Sample, interval, median, ratios, rounded, speeds

SIDES = ("free", "structured")


def measure(model: str, prompt_tokens: int, count: int, rounds: int) -> dict[str, Any]:
    """Run all rounds; the report that becomes the last line."""
    folder = models.folder_of(model)
    samples: dict[str, list[Sample]] = {side: [] for side in SIDES}
    with inside.in_process(str(folder)) as worker:
        bias = models.endless(worker.tokenizer)
        for number in range(-1, rounds):  # round -1 warms up
            for turn, side in enumerate(SIDES if number % 2 else SIDES[::-1]):
                prompt = models.make_prompt(worker.tokenizer, 2 * number + turn, prompt_tokens)
                bound = side == "structured"
                samples[side].append(inside.run_pipeline(worker, prompt, count, bias, structured=bound))
    counted = {side: found[1:] for side, found in samples.items()}
    return models.circumstances(model, folder, prompt, count, rounds) | {
        "tokens_per_s": {side: speeds(found) for side, found in counted.items()},
        "structured / free": {
            what: {"median": median(found), "95%": [rounded(end) for end in interval(found)]}
            for what, found in ratios(counted["structured"], counted["free"]).items()
        },
        "grammar_us": grammar_times(inside.Constraint(str(folder)), samples["structured"][-1].text),
    }


def grammar_times(constraint: inside.Constraint, text: str) -> dict[str, float]:
    """Microseconds: what the first grammar costs, what the next request costs, and the mask of a token."""
    times = {"first grammar": _took(constraint.begin), "same grammar again": _took(constraint.begin)}
    masks = sorted(constraint.mask_seconds(text))
    times |= {"mask p50": masks[len(masks) // 2], "mask p99": masks[int(len(masks) * 0.99)]}
    return {name: rounded(seconds * 1e6) for name, seconds in times.items()}


def _took(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    print(f"{'':14}{'prefill tok/s':>15}{'decode tok/s':>15}{'first token ms':>17}")
    for side, speed in report["tokens_per_s"].items():
        first_ms = 1000 * speed["first_token_s"]
        print(f"{side:14}{speed['prefill']:15.1f}{speed['decode']:15.1f}{first_ms:17.1f}")
    print("\nstructured / free, the median of the rounds, and where the true one lies in 95 cases of 100:")
    for what, found in report["structured / free"].items():
        low, high = found["95%"]
        print(f"  {what:10}{found['median']:8.3f}   {low:.3f} ... {high:.3f}")
    print()
    for name, microseconds in report["grammar_us"].items():
        print(f"{name:20}{microseconds:12.1f} us")
