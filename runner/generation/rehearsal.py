"""A rehearsal behind a load: everything that the first requests will need is computed once.

A CUDA device compiles kernels when they are first used, and its libraries prepare every new shape. On an H200 the
first step of several rows took 7 s, and the first draw with top_k and top_p 9 s: the first clients' wait.

Knows nothing about requests.
"""

from __future__ import annotations

import logging
import time

import mlx.core as mx

from runner.cache.company import Company, sizes
from runner.cache.memory import Memory
from runner.cache.packed import Packed
from runner.generation.sampling import Tokens, draw, make_sampler
from runner.kernels.attention_cuda import SIZES
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.models.base import Model
from runner.types import SamplingOptions

log = logging.getLogger(__name__)

USUAL = (
    SamplingOptions(),
    SamplingOptions(temperature=0.8, top_k=40, top_p=0.9),  # a host's defaults
    SamplingOptions(
        temperature=0.8, min_p=0.1, repeat_penalty=1.1, repeat_last_n=64, logit_bias=((0, -1.0),)
    ),
)
CHUNK = 64  # positions of a chunk beside rows that decode
LONG = 600  # positions; so many that a kernel splits them


def rehearse(loaded: LoadedModel, at_once: AtOnce | None) -> None:
    """Feed prompts, decode in batches of every size that there will be, draw; forget all of it."""
    started = time.perf_counter()
    model, count = loaded.model, loaded.slots.count
    memories = {number: model.make_memory() for number in range(count)}
    longest = min(loaded.context_length // 2, loaded.prefill_chunk)
    for length in (size for size in SIZES if size <= longest):
        mx.eval(_fed(model, model.make_memory(), length))
    for number, memory in memories.items():
        hidden = _fed(model, memory, min(LONG, longest) if number == 0 else 1)
        mx.eval(hidden)
    _draw(loaded, model.logits(hidden[:, -1:, :])[:, 0, :])
    company = Company(count, at_once)
    for size in (1, *sizes(count)) if loaded.slots.may_join else ():
        rows = {number: memories[number] for number in range(size)}
        for _ in range(2):
            if not company.takes(rows):
                break
            together = company.of(rows)
            hidden = model(mx.zeros((size, 1), mx.int32), together.span(), together)
            _draw(loaded, model.logits(hidden)[:, 0, :])
        if count > 1 and loaded.slots.may_pack:
            packed = Packed(company.of(rows), [(model.make_memory(), min(longest, CHUNK))])
            positions = packed.span()
            mx.eval(model(mx.zeros((positions.starts.size, 1), mx.int32), positions, packed))
    log.info("Rehearsed", extra={"took": f"{time.perf_counter() - started:.3f}s"})


def _fed(model: Model, memory: Memory, length: int) -> mx.array:
    """[1,L,E]."""
    return model(mx.zeros((1, length), mx.int32), memory.span(length), memory)


def _draw(loaded: LoadedModel, logits: mx.array) -> None:
    rows = logits.shape[0]
    drawn: list[Tokens] = []
    for options in USUAL:
        samplers = [
            make_sampler(options, loaded.model.vocab_size, (), loaded.context_length) for _ in range(rows)
        ]
        drawn.append(draw(samplers, logits)[0].tokens)
    mx.eval([tokens.checked for tokens in drawn])
