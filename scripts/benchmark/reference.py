"""mlx-lm with the same weights, in a process of its own: nothing that the runner sets for itself changes it there.

It computes in the runner's dtype and behind the same BLAS. Packed matrices stay packed, since that is what it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import inside
from benchmark.models import BAN
from benchmark.samples import Bias, Prompt, Sample, Trouble, decode_rate

BENCH = Path(__file__).parent.parent / "bench.py"


@dataclass(frozen=True)
class Reference:
    """The process. active_bytes: what MLX's arrays take there with the model alone."""

    process: subprocess.Popen[str]
    active_bytes: int


@contextlib.contextmanager
def reference_process(model: str) -> Iterator[Reference]:
    command = [sys.executable, str(BENCH), "--reference", "--model", model]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Reference(process, _answer(process)["active_bytes"])
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def run_reference(
    reference: Reference,
    tokenizer: inside.Tokenizer,
    prompt: Prompt,
    count: int,
    bias: Bias,
) -> Sample:
    """One request. Both sides begin with a text, and our tokenizer reads it for both."""
    process = reference.process
    assert process.stdin is not None
    job = {"text": prompt.text, "count": count, "banned": [token for token, _ in bias]}
    print(json.dumps(job), file=process.stdin, flush=True)
    answer = _answer(process)
    tokens: list[int] = answer["tokens"]
    first_s: float = answer["first_s"]
    return Sample(
        prefill=len(prompt.ids) / first_s,
        decode=decode_rate(len(tokens), answer["decode_s"]),
        first_s=first_s,
        text=tokenizer.decode(tokens),
        tokens=dict(enumerate(tokens)),
        peak_bytes=answer["peak_bytes"],
    )


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Trouble("mlx-lm's process ended; its own message is above")
    answer: dict[str, Any] = json.loads(line)
    if "trouble" in answer:
        raise Trouble(answer["trouble"])
    return answer


def serve(model_path: str) -> None:
    """The process itself: one JSON line in, one out, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    try:
        import mlx.core as mx
        from mlx.utils import tree_map
        from mlx_lm.generate import generate_step
        from mlx_lm.utils import load_model
    except ImportError as error:
        print(json.dumps({"trouble": f"mlx-lm is missing ({error}): pip install -e '.[dev]'"}), file=answers)
        return

    def computed(array: mx.array) -> mx.array:
        """Packed codes are no floats."""
        return (
            array.astype(inside.computed_dtype(array.dtype))
            if mx.issubdtype(array.dtype, mx.floating)
            else array
        )

    model, _ = load_model(Path(model_path))
    model.update(tree_map(computed, model.parameters()))
    mx.eval(model.parameters())
    tokenizer = inside.tokenizer_of(model_path)
    print(json.dumps({"active_bytes": mx.get_active_memory()}), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        banned = mx.array(job["banned"], mx.int32)

        def greedy(logprobs: mx.array, banned: mx.array = banned) -> mx.array:
            return mx.argmax(logprobs.at[..., banned].add(BAN) if banned.size else logprobs, axis=-1)

        mx.reset_peak_memory()
        began = time.perf_counter()
        times, tokens = [], []
        ids = mx.array(tokenizer.encode(job["text"]))
        for token, _ in generate_step(ids, model, max_tokens=job["count"], sampler=greedy):
            times.append(time.perf_counter())
            tokens.append(int(token))
        found = {
            "tokens": tokens,
            "first_s": times[0] - began,
            "decode_s": times[-1] - times[0],
            "peak_bytes": mx.get_peak_memory(),
        }
        print(json.dumps(found), file=answers)
