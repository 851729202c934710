"""Models of ours in tests: made, loaded, fed. No test calls a model otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.cache.company import Company
from runner.cache.memory import Memory
from runner.loading.conversion import join_layers
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.models import build
from runner.models.base import Model
from runner.store.resolve import DEFAULT_STORE, open_model
from tests.parts.case import Case


def made(case: Case, checkpoint: dict[str, mx.array]) -> Model:
    """The model of the case with the tensors of a checkpoint, by the way the loader goes."""
    model = build(case.config)
    model.load_weights(list(model.rename(checkpoint).items()), strict=True)
    join_layers(model)
    return model


def loaded(model: str | Path, store: Path = DEFAULT_STORE, packed: bool = False) -> LoadedModel:
    """A directory, or a name in a store."""
    return load(open_model(str(model), store), lambda share: None, packed=packed)


def parameters(model: Model) -> dict[str, mx.array]:
    """By their names."""
    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


def forward(model: Model, memory: Memory, tokens: Sequence[int]) -> mx.array:
    """Hidden states [1,T,E] of the tokens behind what the memory holds."""
    return model(mx.array([tokens], mx.int32), memory.span(len(tokens)), memory)


class Conversation:
    """A model and what it remembers of the tokens that it was fed."""

    def __init__(self, model: Model, memory: Memory | None = None) -> None:
        """memory: a fresh one; None: as the model makes it."""
        self.model = model
        self.memory = memory or model.make_memory()

    def forward(self, tokens: Sequence[int]) -> mx.array:
        """Hidden states [1,T,E] of one forward behind what was fed before."""
        return forward(self.model, self.memory, tokens)

    def feed(self, tokens: Sequence[int], sizes: Sequence[int] = ()) -> mx.array:
        """Logits [T,V] of the tokens behind what was fed before, in chunks of the given sizes, over and over."""
        rows: list[mx.array] = []
        start = 0
        turns = [*sizes] or [len(tokens)]
        while start < len(tokens):
            size = turns[len(rows) % len(turns)]
            rows.append(self.model.logits(self.forward(tokens[start : start + size]))[0])
            mx.eval(rows[-1])
            start += size
        return mx.concatenate(rows)

    @property
    def offset(self) -> int:
        """How many tokens every layer remembers."""
        assert self.memory.is_level
        return self.memory.offset

    def checkpoint(self) -> None:
        """Expect to be rewound to here."""
        self.memory.checkpoint()

    def restorable(self, to: int) -> int:
        """The largest position in [0, to] that all layers can be rewound to."""
        return self.memory.restorable(to)

    def rewind(self, to: int) -> bool:
        """Forget what came behind position `to`, unless a layer cannot."""
        return self.memory.rewind(to)


def logits(model: Model, tokens: Sequence[int], sizes: Sequence[int] = ()) -> mx.array:
    """Logits [T,V] of the tokens, from an empty memory."""
    return Conversation(model).feed(tokens, sizes)


def decoded_together(
    model: Model, company: Company, rows: Mapping[int, Conversation], tokens: Sequence[int]
) -> mx.array:
    """Logits [B,V] behind one token more for each row, in one forward."""
    memory = company.of({number: row.memory for number, row in rows.items()})
    filled = [*tokens, *[0] * (memory.size - len(tokens))]
    hidden = model(mx.array(filled, mx.int32)[:, None], memory.span(), memory)
    found = model.logits(hidden)[: len(tokens), 0]
    mx.eval(found)
    return found
