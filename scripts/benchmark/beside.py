"""The runner beside mlx-lm: a fresh start, the pipeline, HTTP and mlx-lm in turn, in every round.

So a noisy machine is noisy for all of them. The model is in memory three times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark import inside, models
from benchmark.reference import reference_process, run_reference
from benchmark.samples import Prompt, Sample, median, ratios, speeds
from benchmark.servers import Server, own_command, run_http, spawned

ORDER = ("pipeline", "http", "http client", "mlx-lm")

Results = dict[str, Sample]
Found = Mapping[str, Sequence[Sample]]
"""Name of a part -> its samples, one a round."""


def measure(model: str, prompt_tokens: int, count: int, rounds: int, *, with_mlx_lm: bool) -> dict[str, Any]:
    """Run all rounds; the report that becomes the last line."""
    folder = models.folder_of(model)
    path = str(folder)
    starts: list[Server] = []
    samples: dict[str, list[Sample]] = {}
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(inside.in_process(path))
        bias = models.endless(worker.tokenizer)
        port = stack.enter_context(spawned(own_command(), path)).port

        def start(_: Prompt) -> Results:
            with spawned(own_command(), path) as fresh:
                starts.append(fresh)
            return {}

        def over_http(prompt: Prompt) -> Results:
            clocks = run_http(port, prompt, count, bias)
            return {"http": clocks.server, "http client": clocks.client}

        parts: list[Callable[[Prompt], Results]] = [
            start,
            lambda prompt: {"pipeline": inside.run_pipeline(worker, prompt, count, bias)},
            over_http,
        ]
        if with_mlx_lm:
            reference = stack.enter_context(reference_process(path))
            parts.append(
                lambda prompt: {"mlx-lm": run_reference(reference, worker.tokenizer, prompt, count, bias)}
            )
        for number in range(-1, rounds):  # round -1 warms up
            prompt = models.make_prompt(worker.tokenizer, number, prompt_tokens)
            for turn in range(len(parts)):  # each round begins with another part: no part is always first
                for name, sample in parts[(number + turn) % len(parts)](prompt).items():
                    samples.setdefault(name, []).append(sample)
    counted = {name: samples[name][1:] for name in ORDER if name in samples}
    return models.circumstances(model, folder, prompt, count, rounds) | {
        "spawn_s": {
            "first_answer": median([start.answered_s for start in starts[1:]]),
            "first_200": median([start.ready_s for start in starts[1:]]),
        },
        "tokens_per_s": {name: speeds(found) for name, found in counted.items()},
        "ratios": _ratios(counted),
        "greedy": _greedy(counted),
    }


def _ratios(samples: Found) -> dict[str, float]:
    """Medians of the quotients within each round."""
    pairs = [("http client", "pipeline")]
    if "mlx-lm" in samples:
        pairs += [("pipeline", "mlx-lm"), ("http client", "mlx-lm")]
    return {
        f"{what}: {ours} / {theirs}": median(found)
        for ours, theirs in pairs
        for what, found in ratios(samples[ours], samples[theirs]).items()
    }


def _greedy(samples: Found) -> dict[str, Any]:
    """Whether pipeline and HTTP, and pipeline and mlx-lm, said the same; if not, where tokens part, per round."""
    same = [a.text == b.text for a, b in zip(samples["pipeline"], samples["http"], strict=True)]
    greedy: dict[str, Any] = {"pipeline_equals_http": all(same)}
    if "mlx-lm" in samples:
        both = zip(samples["pipeline"], samples["mlx-lm"], strict=True)
        parted = [_parting(ours, theirs) for ours, theirs in both]
        greedy["pipeline_equals_mlx_lm"] = all(place is None for place in parted)
        greedy["first_difference"] = parted
    return greedy


def _parting(ours: Sample, theirs: Sample) -> int | None:
    """The first known token that differs; the text decides about tokens that ended no character."""
    places = [place for place, token in sorted(ours.tokens.items()) if theirs.tokens.get(place) != token]
    if places:
        return places[0]
    return None if ours.text == theirs.text else len(ours.tokens)


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    spawn = report["spawn_s"]
    print(f"spawn to the first answer {spawn['first_answer']:.3f} s, to 200 {spawn['first_200']:.3f} s\n")
    print(f"{'':14}{'prefill tok/s':>15}{'decode tok/s':>15}{'first token ms':>17}")
    for name, speed in report["tokens_per_s"].items():
        first_ms = 1000 * speed["first_token_s"]
        print(f"{name:14}{speed['prefill']:15.1f}{speed['decode']:15.1f}{first_ms:17.1f}")
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name:40}{ratio:8.3f}")
    greedy = report["greedy"]
    print(f"\ngreedy text over HTTP equals the pipeline's: {greedy['pipeline_equals_http']}")
    if "pipeline_equals_mlx_lm" in greedy:
        print(f"greedy tokens equal mlx-lm's: {greedy['pipeline_equals_mlx_lm']}")
