"""A rehearsal behind a load: what the first requests will need is computed once, and forgotten.

A CUDA device compiles kernels when they are first used, and its libraries prepare every new shape. On an H200 the
first step of several rows took 7 s, and the first draw with top_k and top_p 9 s: the first clients' wait. What a
request alone needs is computed before the model is ready, batches when nobody wants anything.

Knows nothing about requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx

from runner.cache.company import Company, sizes
from runner.cache.memory import Memory
from runner.cache.packed import Packed
from runner.generation.sampling import draw, make_sampler
from runner.generation.tokens import Tokens
from runner.kernels.attention_cuda import SIZES
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.models.base import Model
from runner.types import SamplingOptions

log = logging.getLogger(__name__)

USUAL = (
    SamplingOptions(),
    SamplingOptions(temperature=0.8, top_k=40, top_p=0.9),
)  # the second: a host's defaults
RARE = (
    SamplingOptions(temperature=0.8, min_p=0.1, repeat_penalty=1.1, repeat_last_n=64),
    SamplingOptions(logit_bias=((0, -1.0),)),
)
CHUNK = 64  # positions of a chunk beside rows that decode
LONG = 600  # positions; so many that a kernel splits them


def rehearse(loaded: LoadedModel, at_once: AtOnce | None) -> Iterator[str]:
    """What was rehearsed, piece by piece. The first one is what a request alone needs; every other one takes a
    second or less where kernels were compiled by an earlier process.
    """
    _alone(loaded, at_once)
    yield "alone"
    for options in RARE:
        hidden = _fed(loaded.model, loaded.slots.fresh_memory(), 1)
        _draw(loaded, loaded.model.logits(hidden)[:, 0, :], (options,))
        yield "a draw"
    for size in sizes(loaded.slots.count) if loaded.slots.may_join else ():
        _together(loaded, at_once, size)
        yield f"{size} rows"


def _alone(loaded: LoadedModel, at_once: AtOnce | None) -> None:
    """Prompts of the lengths that others are filled up to, one that is split, steps behind it."""
    started = time.perf_counter()
    model, longest = loaded.model, _longest(loaded)
    for length in (size for size in SIZES if size <= longest):
        mx.eval(_fed(model, loaded.slots.fresh_memory(), length))
    memory = loaded.slots.fresh_memory()
    hidden = _fed(model, memory, min(LONG, longest))
    _draw(loaded, model.logits(hidden[:, -1:, :])[:, 0, :], USUAL)
    _steps(loaded, Company(loaded.slots.count, at_once), {0: memory}, USUAL)
    log.info("Rehearsed", extra={"took": f"{time.perf_counter() - started:.3f}s"})


def _together(loaded: LoadedModel, at_once: AtOnce | None, size: int) -> None:
    """Steps of so many rows, one of them with a chunk beside them where that may be."""
    model, company = loaded.model, Company(loaded.slots.count, at_once)
    rows = {number: loaded.slots.fresh_memory() for number in range(size)}
    for memory in rows.values():
        mx.eval(_fed(model, memory, 1))
    _steps(loaded, company, rows, (*USUAL, *RARE))
    if loaded.slots.may_pack:
        packed = Packed(company.of(rows), [(loaded.slots.fresh_memory(), min(_longest(loaded), CHUNK))])
        positions = packed.span()
        mx.eval(model(mx.zeros((positions.starts.size, 1), mx.int32), positions, packed))


def _steps(
    loaded: LoadedModel, company: Company, rows: Mapping[int, Memory], options: Sequence[SamplingOptions]
) -> None:
    """Two steps, if these rows go together."""
    for _ in range(2):
        if not company.takes(rows):
            break
        together = company.of(rows)
        hidden = loaded.model(mx.zeros((len(rows), 1), mx.int32), together.span(), together)
        _draw(loaded, loaded.model.logits(hidden)[:, 0, :], options)


def _longest(loaded: LoadedModel) -> int:
    """Positions of a chunk at most."""
    return min(loaded.context_length // 2, loaded.prefill_chunk)


def _fed(model: Model, memory: Memory, length: int) -> mx.array:
    """[1,L,E]."""
    return model(mx.zeros((1, length), mx.int32), memory.span(length), memory)


def _draw(loaded: LoadedModel, logits: mx.array, usual: Sequence[SamplingOptions]) -> None:
    rows = logits.shape[0]
    drawn: list[Tokens] = []
    for options in usual:
        samplers = [
            make_sampler(options, loaded.model.vocab_size, (), loaded.context_length) for _ in range(rows)
        ]
        drawn.append(draw(samplers, logits)[0].tokens)
    mx.eval([tokens.told for tokens in drawn])
