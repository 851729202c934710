"""The runner from inside: the only module of these scripts that imports it. When rooms move, this file follows.

Knows nothing about HTTP or mlx-lm.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RunnerError as RunnerError
from runner.machine import device  # importing runner opens the BLAS before anything imports mlx
from runner.machine.blas import blas_name as blas_name

# isort: split
import mlx.core as mx
from mlx.utils import tree_flatten

from benchmark.samples import Bias, Prompt, Sample, Trouble, decode_rate
from runner.generation.alone import complete
from runner.grammar.compiler import Grammars
from runner.grammar.matcher import Matcher
from runner.importing.importer import import_directory
from runner.importing.quantizing import quantize
from runner.loading.loaded_model import LoadedModel as LoadedModel
from runner.loading.loader import load
from runner.models import build
from runner.quantization.settings import KINDS as KINDS
from runner.store import names
from runner.store.resolve import DEMO_FOLDER as DEMO_FOLDER
from runner.store.resolve import open_model
from runner.text.tokenizer import Tokenizer as Tokenizer
from runner.types import NS_PER_S, Chunk, Done, Event, Failed, GenerateRequest, Grammar, SamplingOptions
from runner.worker import Worker

SEED = 20261122


def device_kind() -> str:
    """cpu, cuda or metal."""
    return device.kind()


def gpu_name() -> str | None:
    """What the maker calls it; None where a CPU computes."""
    return None if device.kind() == "cpu" else str(mx.device_info().get("device_name", device.kind()))


def active_bytes() -> int:
    """What MLX's arrays take at the moment."""
    return mx.get_active_memory()


def computed_dtype(stored: mx.Dtype) -> mx.Dtype:
    """What the runner computes in with floats that are stored as these."""
    return device.weight_dtype(stored)


def tokenizer_of(model: str) -> Tokenizer:
    """Without loading the model."""
    files = open_model(model)
    return Tokenizer(files.tokenizer_json, files.tokenizer_config, files.generation_config, files.config)


def context_of(model: str) -> int:
    """Tokens that a prompt and its answer may have together, without loading the model."""
    return build(open_model(model).config).context_length


def save_random(config: dict[str, Any], path: Path) -> None:
    """Random weights of a model with this config.json, the same ones each time."""
    parameters: Any = tree_flatten(build(config).parameters())
    keys = mx.random.split(mx.random.key(SEED), len(parameters))
    made = {}
    for (name, like), key in zip(parameters, keys, strict=True):
        noise = mx.random.normal(like.shape, key=key)
        is_matrix = like.ndim == 2
        made[name] = noise * like.shape[-1] ** -0.5 if is_matrix else 1 + 0.1 * noise
    mx.save_safetensors(str(path), made, metadata={"format": "mlx"})


# --- the worker, as bench.py measures it -----------------------------------------------------------------


@contextlib.contextmanager
def in_process(model: str) -> Iterator[Worker]:
    """A worker thread of ours with the model loaded."""
    worker = Worker(1, _die)
    worker.start()
    worker.load(model).result()
    try:
        yield worker
    finally:
        worker.stop()
        worker.join(10)


@dataclass(frozen=True)
class Events:
    """An outlet that always has room."""

    queue: queue.SimpleQueue[Event]

    def emit(self, event: Event) -> None:
        self.queue.put(event)

    def flush(self) -> None:
        """Nothing was held back."""

    def has_room(self) -> bool:
        return True


STRINGS = Grammar("json_schema", '{"type":"array","items":{"type":"string"},"minItems":1000}')
"""JSON that does not end by itself and is free text for the most part."""


class Constraint:
    """STRINGS for a model that is not loaded; nothing of llguidance's is made before the first `begin`."""

    def __init__(self, model: str) -> None:
        files = open_model(model)
        self._tokenizer = tokenizer_of(model)
        self._grammars = Grammars(self._tokenizer, int(files.config["vocab_size"]))

    def begin(self) -> Matcher:
        return self._grammars.matcher(STRINGS)

    def mask_seconds(self, text: str) -> list[float]:
        """What the mask in front of each token of a text of STRINGS takes."""
        matcher, seconds = self.begin(), []
        for token in self._tokenizer.encode(text, begin=False):
            started = time.perf_counter()
            matcher.allowed()
            seconds.append(time.perf_counter() - started)
            matcher.accept(token)
        return seconds


def run_pipeline(
    worker: Worker, prompt: Prompt, count: int, bias: Bias, *, structured: bool = False
) -> Sample:
    """One request through the worker, timed by its own counters. structured: its answer is STRINGS."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    grammar = STRINGS if structured else None
    options = SamplingOptions(logit_bias=bias)
    mx.reset_peak_memory()
    worker.generate(GenerateRequest(prompt.text, count, options, grammar=grammar), Events(events))
    text: list[str] = []
    tokens: dict[int, int] = {}
    while True:
        match events.get():
            case Chunk() as chunk:
                text.append(chunk.text)
                tokens[chunk.usage.generated_tokens - 1] = chunk.token
            case Failed() as failed:
                raise Trouble(f"the pipeline failed: {failed.message}")
            case Done(usage=usage):
                return Sample(
                    prefill=(usage.prompt_tokens - usage.cached_tokens) * NS_PER_S / usage.prompt_ns,
                    decode=decode_rate(usage.generated_tokens, usage.generate_ns / NS_PER_S),
                    first_s=usage.prompt_ns / NS_PER_S,
                    text="".join(text),
                    tokens=tokens,
                    peak_bytes=mx.get_peak_memory(),
                )


def _die(reason: str) -> None:
    print(f"bench: {reason}", file=sys.stderr)
    os._exit(1)


# --- a loaded model, as perplexity.py asks it ------------------------------------------------------------


def import_demo(root: Path, kind: str | None) -> tuple[str, int, int]:
    """The demo model in a store, as one kind (None: as it is): its name, bytes of weights, number of parameters."""
    name = names.parse(f"demo:{kind or 'floats'}")
    assert name is not None
    done = import_directory(
        DEMO_FOLDER, name, root, None, lambda *progress: None, kind=kind, quantize=quantize
    )
    return str(name), done.weight_bytes, done.plan.parameters


def loaded(name: str, root: Path, *, packed: bool) -> LoadedModel:
    """A model of a store."""
    return load(open_model(name, root), lambda share: None, packed=packed)


def forward(model: LoadedModel) -> Callable[[mx.array], mx.array]:
    """Token ids [B,L] -> logits [B,L,V], without a past."""

    def logits(tokens: mx.array) -> mx.array:
        memory = model.slots.fresh_memory()
        return model.model.logits(model.model(tokens, memory.span(tokens.shape[1]), memory))

    return logits


def answer(model: LoadedModel, prompt: str, count: int) -> str:
    """At most so many tokens, greedy."""
    events = complete(model, GenerateRequest(prompt, count))
    return "".join(event.text for event in events if isinstance(event, Chunk))
