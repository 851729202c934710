"""Experts as checkpoints have them."""

from __future__ import annotations

import mlx.core as mx


def each_apart(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """One tensor for each expert, as Hugging Face has them."""
    apart: dict[str, mx.array] = {}
    for name, array in weights.items():
        if ".switch_mlp." in name:
            for expert in range(array.shape[0]):
                apart[name.replace(".switch_mlp.", f".experts.{expert}.")] = array[expert]
        else:
            apart[name] = array
    return apart


def in_two_tensors(weights: dict[str, mx.array], bank: str = ".switch_mlp.") -> dict[str, mx.array]:
    """All experts of a layer in two tensors, the rows of gate before those of up, as transformers 5 writes them."""
    made: dict[str, mx.array] = {}
    for name, array in weights.items():
        path, dot, last = name.rpartition(bank)
        if not dot:
            made[name] = array
        elif last == "gate_proj.weight":
            both = [array, weights[f"{path}{bank}up_proj.weight"]]
            made[f"{path}.experts.gate_up_proj"] = mx.concatenate(both, axis=1)
        elif last == "down_proj.weight":
            made[f"{path}.experts.down_proj"] = array
    return made
