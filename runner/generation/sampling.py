"""How the next token is chosen. Options are resolved once; what is left per token is arrays.

The order is the host's own, with two additions of ours marked +:

    raw logits [B,V] -> float32, minus infinity for tokens that the model's files suppress or a grammar forbids
  + 0  logit_bias           added to the raw logits
    1  penalties            repeat, then presence, then frequency, over the last repeat_last_n tokens
    2  temperature <= 0     the largest logit; nothing below happens
    3  top_k, temperature   the k largest, sparse from here on; p = softmax(l / T)
  + 4  typical_p            on that p (llama.cpp applies it, and top_p and min_p, before the temperature)
    5  top_p, then min_p
    6  a draw from what is left, with a key made from the seed and the number of the draw; the noise belongs to
       token ids, so that roundings hardly matter (the host's belongs to ranks: its texts of a seed are others)

0 and 1 stand in `penalties.py`, 3 to 5 in `filters.py`, 2 and 6 in `draws.py`. Log-probabilities
(`logprobs.py`) are those of the raw logits, whatever the options; suppressed and forbidden tokens have no part in
them.

Nothing here waits for the device: a draw is unevaluated when it is returned, so the next forward can be queued
before this token is known. Everything, make_sampler too, belongs on the thread that evaluates.

Rows whose options are equal but for the seed are drawn together, by the same operations.

B rows, V vocabulary.

Knows nothing about text, stop strings or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import mlx.core as mx

from runner.errors import RunnerError
from runner.generation import penalties
from runner.generation.draws import draw_key, drawn, fresh_seed, words
from runner.generation.filters import Candidates, narrowing
from runner.generation.logprobs import Logprobs
from runner.generation.penalties import History, Penalty, Step
from runner.generation.tokens import Tokens
from runner.kernels import choice
from runner.kernels.choosing import BROKEN, Choosing, checked
from runner.types import SamplingOptions

COMPARED = 64  # entries of a logit_bias with which a request may still be drawn together with others
LARGE = 1e15  # options are cut to this size: none of them, nor two together, overflows float32 into a NaN


class Drawn(NamedTuple):
    """A draw as numbers. top: (token id, log-probability), most probable first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Draw(NamedTuple):
    """The token of one row among those drawn together and, if asked for, log-probabilities."""

    tokens: Tokens
    row: int
    logprobs: Logprobs | None = None

    @property
    def token(self) -> mx.array:
        """[1]."""
        return self.tokens.array[self.row : self.row + 1]

    def read(self) -> Drawn:
        """The same as numbers; waits for the device. Raises RunnerError if the logits were none: what is broken
        would talk nonsense for ever.
        """
        token = self.tokens.numbers()[self.row]
        if token == BROKEN:
            raise RunnerError(
                "the model's logits are not finite: its weights are broken, or a number overflowed"
            )
        return Drawn(token) if self.logprobs is None else Drawn(token, *self.logprobs.read())


def arrays(draws: Iterable[Draw]) -> list[mx.array]:
    """What to evaluate. Tokens that were drawn together count once: they may be told in many arrays."""
    draws = [*draws]
    told = {id(one.tokens): one.tokens.told for one in draws}
    measured = [one.logprobs.arrays() for one in draws if one.logprobs is not None]
    return [array for group in (*told.values(), *measured) for array in group]


@dataclass(frozen=True, slots=True)
class Chain:
    """The options of a request as steps: the next token is a function of logits, occurrences and key, no more.

    choosing: how this device finds the largest logit, and tells the host.
    """

    choosing: Choosing
    bias: Step | None
    penalties: Sequence[Penalty]
    narrow: Callable[[mx.array], Candidates] | None  # None: greedy

    @property
    def is_greedy(self) -> bool:
        """Whether it needs no keys."""
        return self.narrow is None

    @property
    def is_bare(self) -> bool:
        """Whether it is the largest of the raw logits and nothing else."""
        return self.is_greedy and self.bias is None and not self.penalties

    def __call__(self, raw: mx.array, counts: mx.array | None, keys: mx.array | None) -> mx.array:
        """Raw logits [B,V], occurrences [B,V] (None: no penalties), keys [B] (None: greedy) -> tokens [B]."""
        logits = raw if self.bias is None else self.bias(raw)
        if counts is not None:
            for penalise in self.penalties:
                logits = penalise(logits, counts)
        if self.narrow is None:
            return self.choosing.largest(logits).tokens
        assert keys is not None
        return drawn(self.narrow(logits), keys)


class Sampler:
    """One request's way to choose. Draws must come in the order of the tokens: each is remembered."""

    def __init__(
        self,
        kind: Hashable,
        mask: Step | None,
        chain: Chain,
        history: History | None,
        seed: int,
        top_logprobs: int | None,
        drawn: int = 0,
    ) -> None:
        """kind: samplers of one model whose kinds are equal have equal masks and chains. drawn: draws so far."""
        self.kind = kind, history is None
        self.mask = mask
        self.chain = chain
        self.history = history
        self.top_logprobs = top_logprobs
        self._seed = seed
        self._drawn = drawn

    def next_key(self) -> int:
        """Of the draw that comes now."""
        self._drawn += 1
        return draw_key(self._seed, self._drawn - 1)

    def add(self, tokens: Sequence[int]) -> None:
        """These tokens came without a draw; the penalties remember them."""
        if self.history is not None:
            for token in tokens:
                self.history.add(mx.array([token]))


def draw(samplers: Sequence[Sampler], logits: mx.array, allowed: mx.array | None = None) -> list[Draw]:
    """Raw logits [B,V], any float type -> the next token of each row. The rows' samplers are of one kind.

    allowed [V]: 0, or minus infinity for a token that may not come.
    """
    mask, chain = samplers[0].mask, samplers[0].chain
    raw = found = logits.astype(mx.float32)  # found: what tells whether they are numbers, whatever is masked
    if mask is not None:
        raw = mask(raw)
    if allowed is not None:
        raw = raw + allowed
    histories = [sampler.history for sampler in samplers if sampler.history is not None]
    counts = mx.stack([history.counts for history in histories]) if histories else None
    if chain.is_bare and raw is found:
        tokens = Tokens(*chain.choosing.largest(logits))
    else:
        keys = None if chain.is_greedy else words(*(sampler.next_key() for sampler in samplers))
        array = chain(raw, counts, keys)
        tokens = Tokens(array, chain.choosing.tell(checked(array, found)))
    draws = [Draw(tokens, row) for row in range(len(samplers))]
    for history, one in zip(histories, draws, strict=False):
        history.add(one.token)
    for row, sampler in enumerate(samplers):
        if sampler.top_logprobs is not None:
            measured = Logprobs.measure(raw[row], draws[row].token, sampler.top_logprobs)
            draws[row] = Draw(tokens, row, measured)
    return draws


def make_sampler(
    options: SamplingOptions,
    vocab_size: int,
    prompt: Sequence[int],
    total: int,
    top_logprobs: int | None = None,
    suppressed: Collection[int] = (),
    drawn: int = 0,
) -> Sampler:
    """The sampler of one request; what an option's value means is in SamplingOptions.

    prompt: all of its token ids, for the penalties. total: tokens that prompt and answer may have together, of
    which the penalties remember no more. top_logprobs: None for no log-probabilities, else how many
    alternatives come with each. suppressed: ids that are never drawn; those outside the vocabulary count for
    nothing. drawn: how many draws came before. Raises BadRequest for a logit_bias on an id outside the
    vocabulary.
    """
    options = bounded(options)
    used = penalties.penalties(options)
    chain = Chain(
        choosing=choice.choosing(),
        bias=penalties.bias(options, vocab_size),
        penalties=used,
        narrow=narrowing(options, vocab_size) if options.temperature > 0 else None,
    )
    history = penalties.history(options, vocab_size, prompt, total) if used else None
    mask = penalties.suppression(suppressed, vocab_size)
    seed = fresh_seed() if options.seed is None else options.seed
    # Kinds are compared at each step, which would take long with a long bias.
    alike = len(options.logit_bias) <= COMPARED
    kind: Hashable = replace(options, seed=None) if alike else object()
    return Sampler(kind, mask, chain, history, seed, top_logprobs, drawn)


def bounded(options: SamplingOptions) -> SamplingOptions:
    """Every number of a size that float32 can compute with; a repeat penalty that is off is 1."""
    repeat, temperature = options.repeat_penalty, options.temperature
    return replace(
        options,
        temperature=_cut(max(temperature, 1 / LARGE)) if temperature > 0 else 0.0,
        repeat_penalty=_cut(max(repeat, 1 / LARGE)) if repeat > 0 else 1.0,
        presence_penalty=_cut(options.presence_penalty),
        frequency_penalty=_cut(options.frequency_penalty),
        # Minus infinity is a ban and stays one.
        logit_bias=tuple((token, min(value, LARGE)) for token, value in options.logit_bias),
    )


def _cut(value: float) -> float:
    return min(max(value, -LARGE), LARGE)
