"""Embeddings and heads of which each process has the rows of some tokens.

B batch, L positions, E hidden size, V vocabulary, as in `models/base.py`.

Knows nothing about files or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.layers import nn
from runner.sharding.group import Group
from runner.sharding.shares import rows


class DividedEmbedding(nn.Module):
    """Called as nn.Embedding and its packed twin are."""

    def __init__(self, part: nn.Module, vocabulary: int, group: Group) -> None:
        super().__init__()
        self.part = part
        self._group = group
        self._vocabulary = vocabulary
        self._rows = rows(vocabulary, group.rank, group.size)

    def __call__(self, ids: mx.array) -> mx.array:
        """[B,L] -> [B,L,E]."""
        own = ids.astype(mx.int32) - self._rows.start
        is_own = (own >= 0) & (own < len(self._rows))
        found = self.part(mx.where(is_own, own, 0))
        return self._group.sum(mx.where(is_own[..., None], found, mx.zeros((), found.dtype)))

    def as_linear(self, x: mx.array) -> mx.array:
        return gathered(self.part.as_linear(x), self._vocabulary, self._group)


class DividedHead(nn.Module):
    """Called as a linear layer is."""

    def __init__(self, part: nn.Module, vocabulary: int, group: Group) -> None:
        super().__init__()
        self.part = part
        self._group = group
        self._vocabulary = vocabulary

    def __call__(self, x: mx.array) -> mx.array:
        return gathered(self.part(x), self._vocabulary, self._group)


def gathered(logits: mx.array, vocabulary: int, group: Group) -> mx.array:
    """Our tokens' logits [B,L,..] -> all tokens' [B,L,V]."""
    batch, length, count = logits.shape
    missing = -(-vocabulary // group.size) - count
    if missing:
        logits = mx.pad(logits, [(0, 0), (0, 0), (0, missing)])
    whole = group.gather(logits).transpose(1, 2, 0, 3).reshape(batch, length, -1)
    return whole[..., :vocabulary]
