"""A whole model becomes one process's part of it: weights are cut, layers keep their heads, and what they make is
added up.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from runner.errors import UnsupportedModel
from runner.layers import nn
from runner.layers.decoder import CausalLM
from runner.layers.packed import PackedEmbedding
from runner.layers.shards import Cut, Divisible, Side, Unit
from runner.models.base import Model
from runner.sharding import shares
from runner.sharding.cuts import cut, pieces
from runner.sharding.group import Group
from runner.sharding.shares import Share
from runner.sharding.summed import Summed
from runner.sharding.vocabulary import DividedEmbedding, DividedHead

HEAD = "lm_head"
MATRIX = ("weight", "scales", "biases")
WHOLE = ("global_scale",)


def divide(
    model: Model, weights: Mapping[str, mx.array], group: Group, architecture: str
) -> dict[str, mx.array]:
    """Leave our part in a model that has these weights, of which nothing is evaluated yet; the weights that it has
    then, by the names of the whole. Raises UnsupportedModel for what cannot be divided.
    """
    if not isinstance(model, CausalLM):
        raise UnsupportedModel(
            f"--tensor-parallel {group.size}: {architecture} runs through mlx-lm, whose models cannot be divided"
        )
    ours = dict(weights)
    for path, module in _modules(model):
        if isinstance(module, Divisible):
            ours |= _divided(path, module, weights, group)
    ours |= _rows(model, weights, group)
    model.update(tree_unflatten(list(ours.items())))
    _put_sums(model, group)
    _put_vocabulary(model, weights, group)
    return ours


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = model.named_modules()  # type: ignore[no-untyped-call]  # mlx leaves it open
    return found


def _divided(
    path: str, module: Divisible, weights: Mapping[str, mx.array], group: Group
) -> dict[str, mx.array]:
    """The parts of one layer's weights; the layer is told."""
    said = module.shards()
    arrays = {name: list(_arrays(f"{path}.{name}", weights)) for name in said.cuts}
    share_of: dict[Unit, Share] = {}
    if said.heads:
        share_of[Unit.HEADS] = shares.heads(said.heads, group.rank, group.size)
    if said.key_heads:
        share_of[Unit.KEY_HEADS] = shares.key_heads(said.key_heads, said.heads, group.rank, group.size)
    if lengths := [
        weights[name].shape[axis]
        for part, one in said.cuts.items()
        for name in arrays[part]
        if one.unit is Unit.WIDTH and (axis := _axis(name, weights[name], one)) is not None
    ]:
        share_of[Unit.WIDTH] = shares.width(lengths, group.rank, group.size)
    ours = {
        name: _part(name, weights[name], one, share_of, group)
        for part, one in said.cuts.items()
        for name in arrays[part]
    }
    left = {unit: len(share.ours) for unit, share in share_of.items()}
    module.keep(left.get(Unit.HEADS, 0), left.get(Unit.KEY_HEADS, 0))
    return ours


def _arrays(path: str, weights: Mapping[str, mx.array]) -> Iterator[str]:
    """The names of a layer's parameters, or of a parameter."""
    roles = ("", *(f".{role}" for role in (*MATRIX, "bias", *WHOLE)))
    return (path + role for role in roles if path + role in weights)


def _axis(name: str, array: mx.array, one: Cut) -> int | None:
    """The dimension that is cut; None for none."""
    role = name.rpartition(".")[2]
    if role in WHOLE:
        return None
    if one.side is Side.FIRST:
        return 0
    if role.endswith("bias"):
        return array.ndim - 1 if one.side is Side.OUTPUTS else None
    return array.ndim - (2 if one.side is Side.OUTPUTS else 1)


def _part(name: str, array: mx.array, one: Cut, share_of: Mapping[Unit, Share], group: Group) -> mx.array:
    axis = _axis(name, array, one)
    if axis is not None:
        return cut(array, axis, pieces(one, array.shape[axis], share_of))
    is_added = name.endswith("bias") and group.rank > 0
    return mx.zeros_like(array) if is_added else array  # a bias is in one part of the sum


def _rows(model: CausalLM, weights: Mapping[str, mx.array], group: Group) -> dict[str, mx.array]:
    """Of embeddings and of the head."""
    tables = [path for path, module in _modules(model) if isinstance(module, nn.Embedding | PackedEmbedding)]
    ours: dict[str, mx.array] = {}
    for path in [*tables, *([] if model.tied else [HEAD])]:
        for name in _arrays(path, weights):
            if not name.endswith(WHOLE):
                array = weights[name]
                own = shares.rows(array.shape[0], group.rank, group.size)
                ours[name] = cut(array, 0, [(own.start, own.stop)])
    return ours


def _put_sums(module: nn.Module, group: Group) -> None:
    """Around every part of a sum that is in no other one."""
    for name, child in _children(module):
        if isinstance(child, Divisible) and child.is_summed:
            module[name] = Summed(child, group)
        else:
            _put_sums(child, group)


def _put_vocabulary(model: CausalLM, weights: Mapping[str, mx.array], group: Group) -> None:
    decoder = model.model
    for name, child in _children(decoder):
        if isinstance(child, nn.Embedding | PackedEmbedding):
            count = weights[f"model.{name}.weight"].shape[0]
            decoder[name] = DividedEmbedding(child, count, group)
    if not model.tied:
        model[HEAD] = DividedHead(model[HEAD], model.vocab_size, group)


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules right inside, those in a list by its name and their number."""
    tree: Mapping[str, Any] = module.children()  # type: ignore[no-untyped-call]  # mlx leaves it open
    for name, child in tree.items():
        yield from ((name, one) for one in (child if isinstance(child, list) else [child]))
