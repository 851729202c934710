"""What all references have in common: random weights, and one forward through mlx-lm's layers.

Names and shapes of the weights come from mlx-lm's parameter tree, so that ours are checked too. An architecture's
file says how its model is made, and what else mlx-lm does differently from transformers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from tests.parts.case import Case
from tests.parts.mlx_lm import KVCache, create_causal_mask
from tests.parts.tiny import NEAR_ONE

Tensors = dict[str, mx.array]


class Reference:
    """mlx-lm's model of a case, with random weights that depend on the case's name only."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = self.build()
        self.weights = self.draw()
        self.model.load_weights(list(self.weights.items()))

    def build(self) -> Any:
        """mlx-lm's model, put right by hand."""
        raise NotImplementedError

    def draw(self) -> Tensors:
        """Its random weights, under mlx-lm's names."""
        return random_weights(self.model, seed=self.case.name)

    def checkpoint(self) -> Tensors:
        """The weights as a checkpoint of the case's architecture has them."""
        return dict(self.weights)

    def logits(self, tokens: Sequence[int]) -> mx.array:
        """[T,V] of one forward from an empty cache. The layers are called one by one, since mlx-lm has windows
        in its Llama only; their masks are its own.
        """
        x = self.embed(mx.array([tokens]))
        for layer, window in zip(self.model.layers, self.case.windows, strict=True):
            x = self.step(layer, x, create_causal_mask(len(tokens), window_size=window))
        return self.head(self.model.model.norm(x))[0]

    def embed(self, tokens: mx.array) -> mx.array:
        embedded: mx.array = self.model.model.embed_tokens(tokens)
        return embedded

    def step(self, layer: Any, x: mx.array, mask: mx.array) -> mx.array:
        """Through one layer, whose cache is empty."""
        cache: Any = KVCache()  # type: ignore[no-untyped-call]  # mlx-lm leaves it open
        out: mx.array = layer(x, mask, cache)
        return out

    def head(self, x: mx.array) -> mx.array:
        tied = "lm_head.weight" not in self.weights
        logits: mx.array = self.model.model.embed_tokens.as_linear(x) if tied else self.model.lm_head(x)
        return logits


def random_weights(model: Any, seed: str) -> Tensors:
    """Large enough for attention to choose and for every bias and norm to count, with logits of about 1 to 10."""
    keys = iter(mx.random.split(mx.random.key(random.Random(seed).getrandbits(32)), 1_000))
    weights: Tensors = {}
    parameters: Any = tree_flatten(model.parameters())
    for name, parameter in parameters:
        noise = mx.random.normal(parameter.shape, key=next(keys))
        weights[name] = 1 + 0.2 * noise if name.endswith(NEAR_ONE) else 0.2 * noise
        if name.endswith("A_log"):
            weights[name] = weights[name] - 3  # a memory of some thirty positions
    mx.eval(weights)
    return weights
