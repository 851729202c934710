"""A model that fails on demand, as MLX would: in the middle of a layer stack, when some layers have moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from runner.cache.base import Attending, Latents, LayerMemory, States
from runner.cache.kv import KVCache
from runner.cache.latent import LatentCache
from runner.cache.memory import Memory
from runner.cache.span import Span
from runner.models.base import Model


class Injected(RuntimeError):
    """What it raises: of MLX's kind, and of no other."""


class FailingModel:
    """A Model that is another one until it fails."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.vocab_size = inner.vocab_size
        self.context_length = inner.context_length
        self.fail_in: int | None = None  # forwards from now

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        if self.fail_in is not None:
            self.fail_in -= 1
            if self.fail_in < 0:
                return self._fail(tokens, span, memory)
        return self.inner(tokens, span, memory)

    def _fail(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        if memory.borrowed is not None:
            self.inner(tokens, span, memory)
            raise Injected("injected")
        # The layers before the last one have moved by then.
        attention, latent = dict(memory.attention), dict(memory.latent)
        if attention:
            attention[max(attention)] = _Failing()
        else:
            latent[max(latent)] = _FailingLatent()
        return self.inner(tokens, span, _Half(attention, latent, memory.recurrent))

    def logits(self, hidden: mx.array) -> mx.array:
        return self.inner.logits(hidden)

    def make_memory(self) -> Memory:
        return self.inner.make_memory()

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return weights

    def parameters(self) -> Any:
        return self.inner.parameters()

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> Any:
        return self


@dataclass(frozen=True)
class _Half:
    """The LayerMemory of a forward that fails."""

    attention: Mapping[int, Attending]
    latent: Mapping[int, Latents]
    recurrent: Mapping[int, States]
    borrowed: None = None


class _Failing(KVCache):
    def attend(self, *arrays: Any, **options: Any) -> mx.array:
        raise Injected("injected")


class _FailingLatent(LatentCache):
    def write(self, new: mx.array) -> None:
        raise Injected("injected")
