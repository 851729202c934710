"""How the next token is chosen. Options are resolved once; what is left per token is arrays.

The order is the host's own, with two additions of ours marked +:

    raw logits [1,V] -> float32 [V], minus infinity for tokens that the model's files suppress
  + 0  logit_bias           added to the raw logits
    1  penalties            repeat, then presence, then frequency, over the last repeat_last_n tokens
    2  temperature <= 0     the largest logit; nothing below happens
    3  top_k, temperature   the k largest, sparse from here on; p = softmax(l / T)
  + 4  typical_p            on that p (llama.cpp applies it, and top_p and min_p, before the temperature)
    5  top_p, then min_p
    6  a draw from what is left, with a key made from the seed and the number of the draw

Log-probabilities are those of the raw logits, whatever the options; a suppressed token has no part in them.

Nothing here waits for the device: a draw is unevaluated when it is returned, and the tokens that penalties
remember stay arrays, so the next forward can be queued before this token is known. Everything, make_sampler
too, belongs on the thread that evaluates.

V vocabulary, N candidates, W entries of the top list.

Knows nothing about text, stop strings or caches.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from runner.errors import BadRequest
from runner.types import SamplingOptions

LOGPROB_FLOOR = -9999.0  # the host's: JSON has no -inf
PROBABILITY_FLOOR = 1e-20  # the host's: below it a logarithm is of no use
LARGE = 1e15  # options are cut to this size: none of them, nor two together, overflows float32 into a NaN
_U64 = 2**64 - 1
_WEYL = 0x9E3779B97F4A7C15


class Candidates(NamedTuple):
    """What may still be drawn: ids [N] uint32 and their probabilities [N] float32; 0 is out of the draw."""

    ids: mx.array
    p: mx.array


Step = Callable[[mx.array], mx.array]  # logits [V] -> logits [V]
Filter = Callable[[Candidates], Candidates]
Choice = Callable[[mx.array], mx.array]  # logits [V] -> token [1]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw as numbers. top: (token id, log-probability), most probable first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """One token and, if asked for, log-probabilities; nothing is evaluated yet.

    token [1] uint32; logprob [1] float32; top_ids and top_logprobs [W], most probable first.
    """

    token: mx.array
    logprob: mx.array | None = None
    top_ids: mx.array | None = None
    top_logprobs: mx.array | None = None

    def read(self) -> Drawn:
        """The same as numbers; waits for the device."""
        token = _ints(self.token)[0]
        if self.logprob is None:
            return Drawn(token)
        top: tuple[tuple[int, float], ...] = ()
        if self.top_ids is not None and self.top_logprobs is not None:
            values = map(_floored, _floats(self.top_logprobs))
            top = tuple(zip(_ints(self.top_ids), values, strict=True))
        return Drawn(token, _floored(_floats(self.logprob)[0]), top)

    def arrays(self) -> list[mx.array]:
        """What to evaluate."""
        parts = (self.token, self.logprob, self.top_ids, self.top_logprobs)
        return [part for part in parts if part is not None]


class Sampler:
    """One request's way to choose. Calls must come in the order of the tokens: each draw is remembered."""

    def __init__(
        self,
        mask: Step | None,
        steps: Sequence[Step],
        choose: Choice,
        history: History | None,
        top_logprobs: int | None,
    ) -> None:
        self._mask = mask
        self._steps = steps
        self._choose = choose
        self._history = history
        self._top_logprobs = top_logprobs

    def __call__(self, logits: mx.array) -> Draw:
        """Raw logits [1,V], any float type -> the next token."""
        raw = logits[0].astype(mx.float32)
        if self._mask is not None:
            raw = self._mask(raw)
        adjusted = raw
        for step in self._steps:
            adjusted = step(adjusted)
        token = self._choose(adjusted)
        if self._history is not None:
            self._history.add(token)
        return Draw(token) if self._top_logprobs is None else report(raw, token, self._top_logprobs)


class History:
    """How often each token occurs among the last `size` ones.

    counts [V+1]   occurrences; row V collects the slots that were never filled
    ring [size]    the tokens themselves, V where there is none yet
    """

    def __init__(self, vocab_size: int, size: int, prompt: Sequence[int]) -> None:
        tail = [token for token in prompt[-size:] if 0 <= token < vocab_size]
        empty = mx.full((size - len(tail),), vocab_size, mx.int32)
        self._ring = mx.concatenate([mx.array(tail, mx.int32), empty])
        self._size = size
        self._slot = len(tail) % size
        self._in_and_out = mx.array([1.0, -1.0])
        self._counts = mx.zeros((vocab_size + 1,)).at[self._ring].add(mx.array(1.0))

    @property
    def counts(self) -> mx.array:
        """Occurrences [V] float32."""
        return self._counts[:-1]

    def add(self, token: mx.array) -> None:
        """Remember a token [1], which may be unevaluated, and forget the oldest."""
        slot = slice(self._slot, self._slot + 1)
        # Taking out the oldest at every step also keeps the ring from becoming a long unevaluated chain.
        changed = mx.concatenate([token.astype(mx.int32), self._ring[slot]])
        self._counts = self._counts.at[changed].add(self._in_and_out)
        self._ring[slot] = token
        self._slot = (self._slot + 1) % self._size


def make_sampler(
    options: SamplingOptions,
    vocab_size: int,
    prompt: Sequence[int],
    context_length: int,
    top_logprobs: int | None = None,
    suppressed: Collection[int] = (),
) -> Sampler:
    """The sampler of one request; what an option's value means is in SamplingOptions.

    prompt: all of its token ids, for the penalties. top_logprobs: None for no log-probabilities, else how many
    alternatives come with each. suppressed: ids that are never drawn; those outside the vocabulary count for
    nothing. Raises BadRequest for a logit_bias on an id outside the vocabulary.
    """
    history = _history(options, vocab_size, prompt, context_length)
    steps = _bias_steps(options, vocab_size)
    if history is not None:
        steps += _penalty_steps(options, history)
    choose = largest if options.temperature <= 0 else _drawing(options, vocab_size)
    return Sampler(_suppression(suppressed, vocab_size), steps, choose, history, top_logprobs)


# --- logits -> logits ------------------------------------------------------------------------------------


def biased(logits: mx.array, ids: mx.array, values: mx.array) -> mx.array:
    """l[id] + value."""
    return logits.at[ids].add(values)


def repeat_penalised(logits: mx.array, counts: mx.array, factor: float) -> mx.array:
    """Of tokens seen: l * factor if l < 0, else l / factor."""
    return mx.where(counts > 0, mx.where(logits < 0, logits * factor, logits / factor), logits)


def presence_penalised(logits: mx.array, counts: mx.array, amount: float) -> mx.array:
    """Of tokens seen: l - amount, once."""
    return logits - amount * (counts > 0)


def frequency_penalised(logits: mx.array, counts: mx.array, amount: float) -> mx.array:
    """l - amount for each occurrence."""
    return logits - amount * counts


# --- logits -> token -------------------------------------------------------------------------------------


def largest(logits: mx.array) -> mx.array:
    """The id [1] of the largest logit, the lowest id among equals."""
    return mx.argmax(logits, keepdims=True)


def top_ids(logits: mx.array, count: int) -> mx.array:
    """The ids [count] of the largest logits, largest first; a partition, so never a sort of all V."""
    part = mx.argpartition(-logits, kth=count - 1)[:count]
    return part[mx.argsort(-logits[part])]


def tempered(logits: mx.array, temperature: float) -> mx.array:
    """softmax(l / T); shifted by the largest logit first, so that no temperature overflows."""
    return mx.softmax((logits - mx.max(logits)) / temperature, precise=True)


def typical(found: Candidates, mass: float) -> Candidates:
    """The tokens whose surprise -log p is nearest to its mean, up to a mass (Meister et al. 2022).

    Ordered by |-log p - H|, H = -sum p log p; kept while the mass before a token is < `mass`; renormalised.
    """
    surprise = -mx.log(mx.maximum(found.p, PROBABILITY_FLOOR))
    mean = mx.sum(found.p * surprise)
    order = mx.argsort(mx.where(found.p > 0, mx.abs(surprise - mean), math.inf))
    kept = _up_to_mass(Candidates(found.ids[order], found.p[order]), mass)
    return Candidates(kept.ids, kept.p / mx.sum(kept.p))


def nucleus(found: Candidates, mass: float) -> Candidates:
    """top_p: most probable first, kept while the mass before a token is < `mass`."""
    order = mx.argsort(-found.p)
    return _up_to_mass(Candidates(found.ids[order], found.p[order]), mass)


def above_share(found: Candidates, share: float) -> Candidates:
    """min_p: p >= share * max p."""
    return Candidates(found.ids, mx.where(found.p < share * mx.max(found.p), 0.0, found.p))


def drawn(found: Candidates, key: mx.array) -> mx.array:
    """One id [1], each as often as its probability says."""
    logs = mx.where(found.p > 0, mx.log(mx.maximum(found.p, PROBABILITY_FLOOR)), -math.inf)
    return found.ids[mx.random.categorical(logs, key=key)].reshape(1)


def _up_to_mass(ordered: Candidates, mass: float) -> Candidates:
    before = mx.cumsum(ordered.p, inclusive=False)
    return Candidates(ordered.ids, mx.where(before < mass, ordered.p, 0.0))


# --- log-probabilities -----------------------------------------------------------------------------------


def report(raw: mx.array, token: mx.array, count: int) -> Draw:
    """log_softmax of the raw logits [V] at the token, and the `count` largest (V at most)."""
    total = mx.logsumexp(raw)
    logprob = raw[token] - total
    if count <= 0:
        return Draw(token, logprob)
    best = top_ids(raw, min(count, raw.shape[0]))
    return Draw(token, logprob, best, raw[best] - total)


def _floored(value: float) -> float:
    return value if value > LOGPROB_FLOOR else LOGPROB_FLOOR  # NaN too


def _ints(array: mx.array) -> list[int]:
    return array.tolist()  # type: ignore[return-value]  # typed as object


def _floats(array: mx.array) -> list[float]:
    return array.tolist()  # type: ignore[return-value]  # typed as object


# --- seeds -----------------------------------------------------------------------------------------------


def splitmix64(state: int) -> int:
    """The output of SplitMix64 at a state that was already advanced; 64 bits in and out."""
    z = state & _U64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _U64
    return z ^ (z >> 31)


def draw_keys(seed: int | None) -> Iterator[mx.array]:
    """A key for each draw: the seed's own sequence, whatever other requests draw. None: system entropy."""
    state = int.from_bytes(os.urandom(8), "little") if seed is None else seed
    while True:
        state += _WEYL
        yield mx.random.key(splitmix64(state))


# --- options -> steps ------------------------------------------------------------------------------------


def _suppression(suppressed: Collection[int], vocab_size: int) -> Step | None:
    known = sorted(token for token in suppressed if token < vocab_size)
    if not known:
        return None
    return partial(biased, ids=mx.array(known, mx.int32), values=mx.full(len(known), -math.inf))


def _bias_steps(options: SamplingOptions, vocab_size: int) -> list[Step]:
    for token, _ in options.logit_bias:
        if not 0 <= token < vocab_size:
            raise BadRequest(f"logit_bias: no token {token} in a vocabulary of {vocab_size} tokens")
    if not options.logit_bias:
        return []
    ids = mx.array([token for token, _ in options.logit_bias], mx.int32)
    # Minus infinity is a ban and stays one.
    values = mx.array([min(value, LARGE) for _, value in options.logit_bias], mx.float32)
    return [partial(biased, ids=ids, values=values)]


def _history(
    options: SamplingOptions, vocab_size: int, prompt: Sequence[int], context_length: int
) -> History | None:
    """None where no penalty is in use."""
    in_use = _repeat_factor(options) != 1 or options.presence_penalty != 0 or options.frequency_penalty != 0
    last_n = options.repeat_last_n
    size = context_length if last_n < 0 else min(last_n, context_length)
    return History(vocab_size, size, prompt) if in_use and size > 0 else None


def _penalty_steps(options: SamplingOptions, history: History) -> list[Step]:
    repeat = _repeat_factor(options)
    presence, frequency = _cut(options.presence_penalty), _cut(options.frequency_penalty)
    steps: list[Step] = []
    if repeat != 1:
        steps.append(lambda logits: repeat_penalised(logits, history.counts, repeat))
    if presence != 0:
        steps.append(lambda logits: presence_penalised(logits, history.counts, presence))
    if frequency != 0:
        steps.append(lambda logits: frequency_penalised(logits, history.counts, frequency))
    return steps


def _repeat_factor(options: SamplingOptions) -> float:
    return max(_cut(options.repeat_penalty), 1 / LARGE) if options.repeat_penalty > 0 else 1.0


def _cut(value: float) -> float:
    return min(max(value, -LARGE), LARGE)


def narrowing(options: SamplingOptions, vocab_size: int) -> Callable[[mx.array], Candidates]:
    """Steps 3 to 5: adjusted logits [V] -> what may be drawn. Not for a temperature <= 0."""
    temperature = max(_cut(options.temperature), 1 / LARGE)
    select = _selection(options.top_k, vocab_size)
    filters = _filters(options)

    def narrow(logits: mx.array) -> Candidates:
        ids = select(logits)
        found = Candidates(ids, tempered(logits[ids], temperature))
        for keep in filters:
            found = keep(found)
        return found

    return narrow


def _drawing(options: SamplingOptions, vocab_size: int) -> Choice:
    narrow, keys = narrowing(options, vocab_size), draw_keys(options.seed)
    return lambda logits: drawn(narrow(logits), next(keys))


def _selection(top_k: int, vocab_size: int) -> Step:
    if 0 < top_k < vocab_size:
        return lambda logits: top_ids(logits, top_k)
    everything = mx.arange(vocab_size, dtype=mx.uint32)
    return lambda _: everything


def _filters(options: SamplingOptions) -> list[Filter]:
    filters: list[Filter] = []
    if 0 < options.typical_p < 1:
        filters.append(partial(typical, mass=options.typical_p))
    if 0 < options.top_p < 1:
        filters.append(partial(nucleus, mass=options.top_p))
    if 0 < options.min_p <= 1:
        filters.append(partial(above_share, share=options.min_p))
    return filters
