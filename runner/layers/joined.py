"""Linear layers that read the same input, as one product of all their rows.

Fewer products are fewer operations to dispatch, which is what a step of few positions waits for on a fast GPU.
A module names in `joins` which of its layers may become one; whoever loads a model joins them once, when they have
their weights.

N rows of a weight, which are the outputs of its layer; W inputs.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import mlx.core as mx

from runner.layers import nn
from runner.layers.packed import PackedLinear, stacked

Projection = nn.Linear | PackedLinear


class Joinable(nn.Module):
    """A module with linear layers that read the same input."""

    joins: ClassVar[Mapping[str, Sequence[str]]] = {}
    """The name of several layers as one -> their own names."""

    def outputs(self, name: str, x: mx.array) -> Sequence[mx.array]:
        """[..,W] -> what each of the layers called `name` together makes of it, [..,N]."""
        joined = self.get(name)
        return joined(x) if joined is not None else [self[part](x) for part in self.joins[name]]


class Joined(nn.Module):
    """Several linear layers as one."""

    def __init__(self, whole: Projection, sizes: Sequence[int]) -> None:
        """sizes: N of each layer, in the order of the whole's rows."""
        super().__init__()
        self.whole = whole
        self._ends = list(accumulate(sizes[:-1]))

    def __call__(self, x: mx.array) -> Sequence[mx.array]:
        return mx.split(self.whole(x), self._ends, axis=-1)  # type: ignore[return-value]  # the stub says array


def join(root: nn.Module) -> None:
    """Replace layers by a joined one wherever all of them are float layers, or packed layers of one kind."""
    # A list, since the walk holds on to what it has seen.
    modules = list(root.modules())  # type: ignore[no-untyped-call]  # mlx leaves it open
    joinable = [module for module in modules if isinstance(module, Joinable)]
    del modules
    for module in joinable:
        for name, parts in module.joins.items():
            _join(module, name, parts)


def _join(module: Joinable, name: str, parts: Sequence[str]) -> None:
    layers = [module[part] for part in parts if part in module]
    if len(layers) < len(parts):
        return
    whole = stacked(layers) if all(type(layer) is PackedLinear for layer in layers) else _float(layers)
    if whole is not None:
        mx.eval(list(whole.values()))  # before the next ones: only these are held twice
        module[name] = Joined(whole, [layer.weight.shape[0] for layer in layers])
        layers.clear()
        for part in parts:
            del module[part]


def _float(layers: Sequence[Any]) -> nn.Linear | None:
    """None if one is no float layer, or not all have a bias that one has."""
    if not all(type(layer) is nn.Linear for layer in layers):
        return None
    keys = {frozenset(layer) for layer in layers}
    if len(keys) > 1 or len({layer.weight.dtype for layer in layers}) > 1:
        return None
    whole = nn.Linear(1, 1, bias="bias" in layers[0])
    for key in layers[0]:
        whole[key] = mx.concatenate([layer[key] for layer in layers])
    return whole
