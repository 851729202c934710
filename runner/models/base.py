"""The contract of a model, and the legend of shapes used in every architecture's comments.

    B  batch, always 1 here        L  new positions in this forward     S  positions kept in the cache
    V  vocabulary                  E  hidden size                       F  width of the MLP
    H  query heads                 K  key/value heads                   D  width of a head

An architecture is one file that reads in the same order: config, attention, MLP, block, model, rename. Its
attribute names are the checkpoint's keys, so a weight's name is a path through the object.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.memory import Memory
from runner.cache.span import Span


class Model(Protocol):
    """What the pipeline needs of an architecture. Every implementation is an `nn.Module`."""

    vocab_size: int
    context_length: int

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """Token ids [B,L] int32 at the span's positions -> hidden states [B,L,E] after the last norm.

        The memory then holds the span, too.
        """

    def logits(self, hidden: mx.array) -> mx.array:
        """Hidden states [B,L,E] -> raw logits [B,L,V]. Apart, so that prefill can leave it out."""

    def make_memory(self) -> Memory:
        """A fresh memory with the kinds of storages that this architecture needs."""

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Checkpoint names -> parameter names; drops only what is known to be of no use here."""

    def parameters(self) -> Any:
        """The parameter tree (as `nn.Module` has it)."""

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> Any:
        """Assign parameters by name (as `nn.Module` has it)."""
