"""A probe behind a load: what a few positions take, from which the budget foretells what many will.

The same few positions are fed three times. The first forward makes room and warms what is cold. The second one is
measured, and so is the third, in which storages are told their positions again and again, so that attention sees
more keys than the model was fed. The difference is what pairs of a position and one that it sees take. With CUDA
half as many are fed, too, which tells what a chunk takes whatever its length.

Knows nothing about requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx

from runner.cache.base import Attending, Latents, LayerMemory, States
from runner.cache.latent import LatentCache
from runner.cache.memory import Memory
from runner.cache.span import Span
from runner.generation.budget import Costs
from runner.generation.sampling import arrays, draw, make_sampler
from runner.kernels import pacing
from runner.kernels.attention import Mask
from runner.machine import device, memory
from runner.models.base import Model
from runner.types import SamplingOptions

log = logging.getLogger(__name__)

# Positions. With CUDA a length, and keys before it, with which whole chunks go (see `attention_cuda.py`). On a CPU
# fewer where a forward of so many takes long: with a small model, whose operations are over as soon as they are
# begun, chunks of 16 take as little as half of what is foretold from them for large ones.
LENGTH: dict[device.Kind, int] = {"cpu": 64, "metal": 64, "cuda": 512}
SHORT, LONG_S = 16, 0.05
RUNS: dict[device.Kind, int] = {"cpu": 1, "metal": 1, "cuda": 3}  # of each measurement
TIMES = 3
USUAL = SamplingOptions(temperature=0.8, top_k=40, top_p=0.9, repeat_penalty=1.1, repeat_last_n=64)


def measured(model: Model, held: Memory, agreed: Callable[[bool], bool] = bool) -> Costs:
    """What the model's forwards take on this device. From now on long prompts spend a share of what is left, since
    they are prepared ahead. held: a fresh memory. agreed: makes of what is found here what holds for all who have
    the model together.
    """
    started = time.perf_counter()
    pacing.allow(0)  # what is measured takes no more for that than it must
    length, times = min(LENGTH[device.kind()], model.context_length), TIMES
    held.reserve((2 + times) * length)
    hidden = _fed(model, held, held, min(SHORT, length) if device.kind() == "cpu" else length)
    if device.kind() == "cpu" and agreed(time.perf_counter() - started > LONG_S):
        length, times = min(SHORT, length), TIMES * LENGTH["cpu"] // SHORT
    row = _taken(lambda: _draw(model, hidden), held)
    once = _taken(lambda: _fed(model, held, held, length), held)
    often = _taken(lambda: _fed(model, held, Repeating(held, times), length), held)
    pair = max(0.0, (often - once) / (length * length * times))
    whole = 0 if device.kind() != "cuda" else _of_any_chunk(once, length, model, held)
    position = max(0.0, (once - whole) / length - pair * 2 * length)
    ahead = pacing.allow(memory.budget() - memory.active())
    took = f"{time.perf_counter() - started:.3f}s"
    found = {"position": int(position), "pair": int(pair), "row": row, "chunk": whole + ahead, "took": took}
    log.info("Memory probed", extra=found)
    if ahead:
        log.info("Long prompts are prepared ahead; a smaller --memory makes it less", extra={"bytes": ahead})
    return Costs(position, pair, row, held.needs(), whole + ahead)


def _of_any_chunk(once: int, length: int, model: Model, held: Memory) -> int:
    """Bytes that a chunk takes however long it is, as packed weights do that become floats. once: what one of this
    length takes. Three quarters of that at most: what a GPU gives back late is seen in one and not in the other.
    """
    half = _taken(lambda: _fed(model, held, held, length // 2), held)
    return max(0, min(2 * half - once, once * 3 // 4))


def _fed(model: Model, held: Memory, told: LayerMemory, length: int) -> mx.array:
    """[1,L,E]."""
    hidden = model(mx.zeros((1, length), mx.int32), held.span(length), told)
    mx.eval(hidden, held.arrays())
    return hidden


def _draw(model: Model, hidden: mx.array) -> None:
    logits = model.logits(hidden[:, -1:, :])[:, 0, :]
    mx.eval(arrays(draw([make_sampler(USUAL, model.vocab_size, (), USUAL.repeat_last_n)], logits)))


def _taken(run: Callable[[], object], held: Memory) -> int:
    """Bytes at the highest, beside what was there before and what the memory took. With CUDA the least of some
    runs, if the memory can go back: buffers are returned whenever a thread of MLX's gets to it.
    """
    found, start = [], held.offset
    while True:
        memory.release_buffers()
        before, kept = mx.get_active_memory(), held.nbytes
        mx.reset_peak_memory()
        run()
        found.append(mx.get_peak_memory() - before - max(0, held.nbytes - kept))
        if len(found) >= RUNS[device.kind()] or held.restorable(start) < start:
            return max(0, min(found))
        held.rewind(start)


class Repeating:
    """A LayerMemory whose layers remember whatever they are told several times."""

    def __init__(self, held: Memory, times: int) -> None:
        self.attention: Mapping[int, Attending] = {
            layer: RepeatingAttention(storage, times) for layer, storage in held.attention.items()
        }
        self.latent: Mapping[int, Latents] = {
            layer: RepeatingLatents(storage, times) for layer, storage in held.latent.items()
        }
        self.recurrent: Mapping[int, States] = held.recurrent
        self.borrowed = held.borrowed


@dataclass(frozen=True)
class RepeatingAttention:
    inner: Attending
    times: int

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        span: Span,
        *,
        scale: float,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """What the keys find before the last time is never computed."""
        for _ in range(self.times):
            found = self.inner.attend(queries, keys, values, span, scale=scale, sinks=sinks)
        return found

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        return self.inner.look(queries, span, scale=scale, sinks=sinks)


@dataclass(frozen=True)
class RepeatingLatents:
    inner: LatentCache
    times: int

    @property
    def offset(self) -> int:
        return self.inner.offset

    def write(self, new: mx.array) -> None:
        for _ in range(self.times):
            self.inner.write(new)

    def look(self, queries: mx.array, span: Span, *, scale: float) -> mx.array:
        return self.inner.look(queries, span, scale=scale)

    def kept(self) -> mx.array:
        return self.inner.kept()

    def mask(self, span: Span) -> Mask:
        return self.inner.mask(span)
