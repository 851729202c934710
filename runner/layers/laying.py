"""How the weights of float layers lie in memory: as the device reads them fastest (`kernels/by_inputs.py`).

Their shapes stay, so nobody else needs to know.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels import choice
from runner.kernels.by_inputs import by_inputs
from runner.layers import nn
from runner.layers.decoder import CausalLM


def lay_head(root: nn.Module) -> None:
    """The head, which may be the embedding, before it is evaluated: it may be a third of a model, so that is done
    first, while there is room.
    """
    if not isinstance(root, CausalLM):
        return
    head = root.model.embed_tokens if root.tied else root.lm_head
    if type(head) in (nn.Linear, nn.Embedding) and choice.lies_by_inputs(head.weight):
        head.weight = by_inputs(head.weight)


def lay_layers(root: nn.Module) -> int:
    """All others, which are there by now, one after the other; how many weights that were."""
    modules = list(root.modules())  # type: ignore[no-untyped-call]  # mlx leaves it open
    head = root.get("lm_head")
    layers = [module for module in modules if type(module) is nn.Linear and module is not head]
    found = [layer for layer in layers if choice.lies_by_inputs(layer.weight)]
    for layer in found:
        layer.weight = by_inputs(layer.weight)
        mx.eval(layer.weight)  # before the next one: only this is held twice
    return len(found)
