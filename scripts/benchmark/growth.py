"""Growth with the context: prompts of several lengths, and decoding behind each of them, beside mlx-lm.

Both sides take turns at every prompt, each in a process of its own, so the peak memory of one is nothing of the
other. What the runner keeps of the last prompt is forgotten before the next one, since mlx-lm keeps nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark import inside, models
from benchmark.reference import reference_process, run_reference
from benchmark.samples import Prompt, Sample, Trouble, median, ratios, speeds

OURS, THEIRS = "runner", "mlx-lm"
BYTES_PER_MB = 1e6

Samples = dict[str, dict[int, list[Sample]]]
"""Side -> length -> a sample a round."""


def measure(
    model: str, lengths: Sequence[int], count: int, rounds: int, *, with_mlx_lm: bool
) -> dict[str, Any]:
    """The report that becomes the last line. The first round, in which every length is new, is not counted."""
    folder = models.folder_of(model)
    require_room(inside.context_of(str(folder)), max(lengths), count)
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(inside.in_process(str(folder)))
        bias = models.endless(worker.tokenizer)
        loaded = {OURS: inside.active_bytes()}

        def run_ours(prompt: Prompt) -> Sample:
            worker.empty_cache().result()
            return inside.run_pipeline(worker, prompt, count, bias)

        sides: dict[str, Callable[[Prompt], Sample]] = {OURS: run_ours}
        if with_mlx_lm:
            reference = stack.enter_context(reference_process(str(folder)))
            loaded[THEIRS] = reference.active_bytes
            sides[THEIRS] = lambda prompt: run_reference(reference, worker.tokenizer, prompt, count, bias)
        samples: Samples = {side: {length: [] for length in lengths} for side in sides}
        turns = [(number, place) for number in range(rounds + 1) for place in range(len(lengths))]
        for turn, (number, place) in enumerate(turns):
            prompt = models.make_prompt(worker.tokenizer, turn, lengths[place])
            for side in list(sides)[:: -1 if (number + place) % 2 else 1]:
                samples[side][lengths[place]].append(sides[side](prompt))
    return (
        models.circumstances(model, folder, prompt, count, rounds)
        | {"lengths": list(lengths), "loaded_bytes": loaded}
        | summary({side: _counted(found) for side, found in samples.items()})
    )


def require_room(context: int, longest: int, count: int) -> None:
    if longest + count > context:
        raise Trouble(
            f"{longest} tokens and {count} more do not fit into the model's context of {context};"
            f" the longest may be {context - count}"
        )


def _counted(found: Mapping[int, Sequence[Sample]]) -> dict[int, Sequence[Sample]]:
    return {length: samples[1:] for length, samples in found.items()}


def summary(samples: Mapping[str, Mapping[int, Sequence[Sample]]]) -> dict[str, Any]:
    """growth: by side and length. ratios: the runner's to mlx-lm's, medians of the quotients within a round."""
    report: dict[str, Any] = {
        "growth": {
            side: {str(length): _figures(some) for length, some in found.items()}
            for side, found in samples.items()
        }
    }
    if THEIRS not in samples:
        return report
    pairs = {str(length): (some, samples[THEIRS][length]) for length, some in samples[OURS].items()}
    quotients = {length: ratios(ours, theirs) for length, (ours, theirs) in pairs.items()}
    return report | {
        "ratios": {
            length: {what: median(found) for what, found in both.items()}
            for length, both in quotients.items()
        },
        "same_text": {
            length: all(a.text == b.text for a, b in zip(ours, theirs, strict=True))
            for length, (ours, theirs) in pairs.items()
        },
    }


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    return speeds(samples) | {"peak_bytes": max(sample.peak_bytes for sample in samples)}


def described(report: dict[str, Any]) -> str:
    """What was run, in a line."""
    return (
        f"prompts of {', '.join(map(str, report['lengths']))} tokens, {report['generated_tokens']} out,"
        f" medians of {report['rounds']} rounds"
    )


def print_table(report: dict[str, Any]) -> None:
    """For people, below the head."""
    print(
        f"{'prompt':>8} {'':10}{'prefill tok/s':>15}{'decode tok/s':>15}{'first token ms':>17}{'peak MB':>11}"
    )
    for length in map(str, report["lengths"]):
        for side, found in report["growth"].items():
            speed = found[length]
            print(
                f"{length:>8} {side:10}{speed['prefill']:15.1f}{speed['decode']:15.1f}"
                f"{1000 * speed['first_token_s']:17.1f}{speed['peak_bytes'] / BYTES_PER_MB:11.1f}"
            )
        if "ratios" in report:
            ratio = report["ratios"][length]
            same = "the same text" if report["same_text"][length] else "other texts"
            print(f"{'':8} {'ratio':10}{ratio['prefill']:15.3f}{ratio['decode']:15.3f}   {same}")
    loaded = (f"{side} {size / BYTES_PER_MB:.1f} MB" for side, size in report["loaded_bytes"].items())
    print(f"\nthe model alone: {', '.join(loaded)}")
