"""A trial of our kernels behind a load: does a row that decodes find what a prompt finds at the same place?

Kernels are compiled for the GPU that is there, which need not be one that they were ever run on. Prompts go through
MLX's own operations, rows that decode through ours; where the two are far apart, ours are wrong. And the largest
logit has to be the one that MLX finds.

Knows nothing about requests.
"""

from __future__ import annotations

import logging

import mlx.core as mx

from runner.cache.company import Company
from runner.cache.memory import Memory
from runner.generation.tokens import Tokens
from runner.kernels import choice, choosing
from runner.kernels.nvrtc import CompilerError
from runner.kernels.product import MOST
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel

log = logging.getLogger(__name__)

BEFORE = CHUNK = MOST + 1  # positions; more than MOST go through none of our kernels for few
# Cosine of the angle between what both find. Rounding leaves 0.99 with random weights of 8 B; errors leave nothing.
ALIKE = 0.9
CHOSEN = 5  # rows, which are told in several arrays


def kernels_agree(loaded: LoadedModel, at_once: AtOnce | None) -> bool:
    """Whether a lone row, and two rows, find what the last position of a prompt finds. A kernel that does not
    compile finds nothing.
    """
    try:
        return _agree(loaded, at_once)
    except CompilerError as error:
        log.warning("A kernel does not compile", extra={"error": str(error)})
        return False


def _agree(loaded: LoadedModel, at_once: AtOnce | None) -> bool:
    model, slots = loaded.model, loaded.slots
    tokens = mx.arange(BEFORE + CHUNK)[None] % model.vocab_size
    prompt = _fed(loaded, tokens[:, :BEFORE])
    expected = model(tokens[:, BEFORE:], prompt.span(CHUNK), prompt)[0, -1]
    mx.eval(expected)  # so that no two forwards of several processes, with their sums, are under way at once
    for size in (1, 2) if slots.count > 1 and slots.may_join else (1,):
        company = Company(slots.count, at_once)
        rows = {number: _fed(loaded, tokens[:, :-1]) for number in range(size)}
        if not company.takes(rows):
            continue
        together = company.of(rows)
        found = model(mx.repeat(tokens[:, -1:], size, axis=0), together.span(), together)[:, -1]
        if not _alike(found, expected):
            return False
    return _chooses(model.logits(expected[None, None])[:, 0, :])


def _fed(loaded: LoadedModel, tokens: mx.array) -> Memory:
    """A memory that remembers [1,L]."""
    memory = loaded.slots.fresh_memory()
    mx.eval(loaded.model(tokens, memory.span(tokens.shape[1]), memory))
    return memory


def _alike(found: mx.array, expected: mx.array) -> bool:
    """[B,E] and [E]."""
    ours, theirs = found.astype(mx.float32), expected.astype(mx.float32)
    cosines = (ours @ theirs) / (mx.linalg.norm(ours, axis=-1) * mx.linalg.norm(theirs))
    return bool((cosines > ALIKE).all())  # not so where one is no number


def _chooses(logits: mx.array) -> bool:
    """Whether tokens are found, and told, as MLX finds them. logits: [1,V]."""
    ways, size = choice.choosing(), logits.shape[1]
    rows = mx.concatenate([mx.roll(logits, size * row // CHOSEN, 1) for row in range(CHOSEN)])
    expected = Tokens(*choosing.plain(rows))
    found = Tokens(*ways.largest(rows))
    again = Tokens(found.array, ways.tell(found.array))
    return found.numbers() == again.numbers() == expected.numbers()
