"""Mixture of experts: a router picks A of N small MLPs for each token, and their outputs are added up, weighted.

The weights of all experts stand in one array per projection, so that a forward is three gathered matrix products
whatever was picked. `join_experts` makes these arrays from the spellings that checkpoints have.

Letters beside those of `models/base.py`:

    N  experts        A  experts that one token uses        T  tokens, B*L        P  pairs of token and expert, T*A

Knows nothing about config files or caches.
"""

from __future__ import annotations

import re
from typing import ClassVar

import mlx.core as mx

from runner.errors import BadModelFiles
from runner.kernels import choice
from runner.kernels.experts import choose
from runner.layers import nn
from runner.layers.shards import BY_WIDTH, Shards

SORTED_FROM = 64  # pairs; below it sorting costs more than reading an expert's weights once saves


class ExpertLinear(nn.Module):
    """N linear maps without bias; each row of the input goes through one of them."""

    def __init__(self, inputs: int, outputs: int, experts: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, outputs, inputs))

    def __call__(self, x: mx.array, experts: mx.array, *, in_order: bool) -> mx.array:
        """Rows [P,1,inputs] and the expert of each [P] -> [P,1,outputs]; `in_order` promises ascending experts."""
        return gathered(x, self.weight, experts, in_order=in_order)


def gathered(x: mx.array, weight: mx.array, experts: mx.array, *, in_order: bool) -> mx.array:
    """The same for weights [N,outputs,inputs]."""
    is_long = experts.size >= choice.in_order_from()
    return mx.gather_mm(x, weight.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=in_order and is_long)


class Experts(nn.Module):
    """N gated MLPs of width F. Divided by width, each process makes a part of every expert's output."""

    is_summed: ClassVar = False  # whoever weighs what the experts make has less to add up

    def __init__(self, hidden: int, width: int, experts: int) -> None:
        super().__init__()
        self.gate_proj = ExpertLinear(hidden, width, experts)
        self.up_proj = ExpertLinear(hidden, width, experts)
        self.down_proj = ExpertLinear(width, hidden, experts)
        self.activations = choice.activations()

    def __call__(self, x: mx.array, chosen: mx.array) -> mx.array:
        """Tokens [T,E] and the experts of each [T,A] -> each expert's output [T,A,E]."""
        experts = chosen.flatten()  # [P]
        tokens = mx.arange(experts.size) // chosen.shape[1]  # [P]
        in_order = experts.size >= SORTED_FROM
        if in_order:  # neighbours then read the same weights
            order = mx.argsort(experts)
            experts, tokens = experts[order], tokens[order]
        rows = x[tokens][:, None]  # [P,1,E]
        out = self.through(rows, experts, in_order=in_order)  # [P,1,E]
        if in_order:
            out = out[mx.argsort(order)]
        return out.reshape(*chosen.shape, -1)

    def through(self, rows: mx.array, experts: mx.array, *, in_order: bool) -> mx.array:
        """Rows [P,1,E] and the expert of each [P] -> what it makes of it [P,1,E]."""
        gate = self.gate_proj(rows, experts, in_order=in_order)  # [P,1,F]
        up = self.up_proj(rows, experts, in_order=in_order)  # [P,1,F]
        return self.down_proj(self.activations.swiglu(gate, up), experts, in_order=in_order)

    def shards(self) -> Shards:
        return Shards(BY_WIDTH)

    def keep(self, heads: int, key_heads: int) -> None:
        """Its width is that of its weights."""


class Mixture(nn.Module):
    """What has experts in it, and adds up what they make."""

    is_summed: ClassVar = True

    def shards(self) -> Shards:
        """The router is whole; the experts know themselves."""
        return Shards({})

    def keep(self, heads: int, key_heads: int) -> None:
        """It has none."""


class SparseMLP(Mixture):
    """The MLP of a layer with experts: the A most probable ones, weighted by their probabilities."""

    def __init__(self, hidden: int, width: int, *, experts: int, active: int, normalized: bool) -> None:
        """`normalized`: the weights of a token's experts add up to 1."""
        super().__init__()
        self.active = active
        self.normalized = normalized
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = Experts(hidden, width, experts)

    def __call__(self, x: mx.array) -> mx.array:
        return self.mixed(x, self.gate(x))

    def mixed(self, x: mx.array, logits: mx.array) -> mx.array:
        """[B,L,E] and the router's logits [B,L,N] -> [B,L,E]."""
        tokens = x.reshape(-1, x.shape[-1])  # [T,E]
        chosen, shares = choose(logits.flatten(0, -2), self.active, normalized=self.normalized)  # [T,A]
        out = self.experts(tokens, chosen) * shares.astype(x.dtype)[..., None]  # [T,A,E]
        return out.sum(axis=1).reshape(x.shape)


def join_experts(weights: dict[str, mx.array], experts: int) -> dict[str, mx.array]:
    """Checkpoint names -> `mlp.experts.gate_proj.weight`, of all experts. Read are, with other names left alone,

        mlp.experts.3.gate_proj.weight     one tensor an expert
        mlp.switch_mlp.gate_proj.weight    of all experts, as mlx-lm has it; also under moe.experts
        mlp.experts.gate_up_proj           [N,2F,E] as newer transformers has it: gate's rows, then up's

    Whatever stands behind the name (`weight`, a quantized one's `scales`) is joined or split alike.
    """
    joined: dict[str, mx.array] = {}
    apart: dict[str, dict[int, mx.array]] = {}
    for name, array in weights.items():
        for group in OTHER_GROUPS:
            name = name.replace(group, ".mlp.experts.")
        one = ONE_EXPERT.fullmatch(name)
        if one:
            apart.setdefault(f"{one[1]}.{one[3]}", {})[int(one[2])] = array
        else:
            for ours, part in _projections(name, array).items():
                add_tensor(joined, ours, part)
    for name, arrays in apart.items():
        for ours, part in _projections(name, _stacked(name, arrays, experts)).items():
            add_tensor(joined, ours, part)
    return joined


OTHER_GROUPS = (".mlp.switch_mlp.", ".moe.experts.")
ONE_EXPERT = re.compile(r"(.*\.experts)\.(\d{1,6})\.(.+)")
ALL_EXPERTS = re.compile(r"(.*\.experts)\.(gate_up|gate|up|down)_proj(?:\.(\w+))?")


def add_tensor(weights: dict[str, mx.array], name: str, array: mx.array) -> None:
    """Put it under its name, which two spellings may not lead to."""
    if name in weights:
        raise BadModelFiles(f"tensor {name} is there twice, in two spellings")
    weights[name] = array


def _projections(name: str, array: mx.array) -> dict[str, mx.array]:
    """One tensor of all experts under our names. Halves are made contiguous, since a strided one would be copied
    at every step.
    """
    bank = ALL_EXPERTS.fullmatch(name)
    if bank is None:
        return {name: array}
    path, projection, part = bank[1], bank[2], bank[3] or "weight"
    if projection != "gate_up":
        return {f"{path}.{projection}_proj.{part}": array}
    if part == "global_scale":
        return {f"{path}.gate_proj.{part}": array, f"{path}.up_proj.{part}": array}
    if array.ndim != 3 or array.shape[1] % 2:
        raise BadModelFiles(f"{name}: shape {tuple(array.shape)}, which is not that of gate and up together")
    gate, up = (mx.contiguous(half) for half in mx.split(array, 2, axis=1))
    return {f"{path}.gate_proj.{part}": gate, f"{path}.up_proj.{part}": up}


def _stacked(name: str, arrays: dict[int, mx.array], experts: int) -> mx.array:
    if sorted(arrays) != list(range(experts)):
        raise BadModelFiles(
            f"{name}: there are tensors of {len(arrays)} experts, expected 0 to {experts - 1}"
        )
    kinds = {(array.shape, array.dtype) for array in arrays.values()}
    if len(kinds) > 1:
        raise BadModelFiles(f"{name}: the experts' tensors differ in shape or dtype")
    return mx.stack([arrays[expert] for expert in range(experts)])
