"""From the tensors of a checkpoint to those that a model computes with.

Quantized matrices stay packed, and the model's layers give way to their packed twins, or they become floats; floats
get the type that the device computes in. All of it is recipes: nothing is evaluated here.

Knows nothing about files or requests.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.errors import BadModelFiles
from runner.layers import nn
from runner.layers.fused import fuse
from runner.layers.joined import join
from runner.layers.laying import lay_head, lay_layers
from runner.layers.packed import has_kernel, replace
from runner.loading.policy import Decision, packed_or_dense
from runner.machine import device
from runner.models.base import Model
from runner.quantization.declared import Declared
from runner.quantization.matrix import FLOATS, Packed, collect
from runner.quantization.names import ROLES

log = logging.getLogger(__name__)


def converted(
    model: Model,
    weights: Mapping[str, mx.array],
    declared: Mapping[str, Declared],
    common: mx.Dtype,
    *,
    keep_packed: bool,
    parts: int = 1,
) -> dict[str, mx.array]:
    """Every tensor in the form that it is computed with, by the names of the model's parameters, some of which are
    those of packed layers afterwards. common: see `common_dtype`. parts: one of so many is kept.
    """
    shapes = parameter_shapes(model)
    matrices = collect(weights, shapes, declared)
    ready = _converted_floats(weights, matrices)
    if not matrices:
        return ready
    dtypes = {path: device.weight_dtype(matrix.dtype(common)) for path, matrix in matrices.items()}
    decision = packed_or_dense(
        _dense_bytes(shapes, device.weight_dtype(common)) // parts,
        asked=keep_packed,
        has_kernels=all(has_kernel(matrix, dtypes[path]) for path, matrix in matrices.items()),
    )
    packed = _put_twins(model, matrices, dtypes) if decision.packed else frozenset()
    _log_decision(matrices, packed, decision)
    return ready | _packed_or_dequantized(matrices, dtypes, packed)


def parameters(model: Model) -> dict[str, mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


def parameter_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: parameter.shape for name, parameter in parameters(model).items()}


def join_layers(model: Model) -> None:
    """Make one of the layers that may be (`layers/joined.py`). Their weights are there by now."""
    join(_module(model))


def fuse_layers(model: Model) -> None:
    """Let rows that decode go through blocks in few operations, where the device has such (`layers/fused.py`)."""
    blocks = fuse(_module(model))
    if blocks:
        log.info("Blocks fused", extra={"blocks": blocks})


def lay_head_weight(model: Model) -> dict[str, mx.array]:
    """Let the head, which is not evaluated, lie as the device reads it fastest (`layers/laying.py`); all weights of
    the model then.
    """
    lay_head(_module(model))
    return parameters(model)


def lay_weights(model: Model) -> None:
    """The same for all others, once they are evaluated and joined."""
    weights = lay_layers(_module(model))
    if weights:
        log.info("Weights lie by inputs", extra={"weights": weights})


def _dense_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: mx.Dtype) -> int:
    """What a model takes whose parameters are all of one type."""
    return sum(math.prod(shape) * dtype.size for shape in shapes.values())


def _converted_floats(weights: Mapping[str, mx.array], matrices: Collection[str]) -> dict[str, mx.array]:
    """Everything that is no part of a quantized matrix."""
    parts = {f"{path}.{role}" for path in matrices for role in ROLES}
    return {name: _in_weight_dtype(name, array) for name, array in weights.items() if name not in parts}


def _in_weight_dtype(name: str, array: mx.array) -> mx.array:
    if array.dtype not in FLOATS:
        raise BadModelFiles(
            f"{name}: dtype {str(array.dtype).removeprefix('mlx.core.')}, expected a float type"
        )
    return array.astype(device.weight_dtype(array.dtype))


def _put_twins(
    model: Model, matrices: Mapping[str, Packed], dtypes: Mapping[str, mx.Dtype]
) -> Collection[str]:
    """Packed layers in the places of the float ones; returns the paths of those that have a twin."""
    return frozenset(replace(_module(model), matrices, dtypes))


def _module(model: Model) -> nn.Module:
    """Every model is one; who computes with it need not know."""
    assert isinstance(model, nn.Module)
    return model


def _packed_or_dequantized(
    matrices: Mapping[str, Packed], dtypes: Mapping[str, mx.Dtype], packed: Collection[str]
) -> dict[str, mx.array]:
    ready: dict[str, mx.array] = {}
    for path, matrix in matrices.items():
        if path in packed:
            ready |= {f"{path}.{role}": array for role, array in matrix.tensors(dtypes[path]).items()}
        else:
            ready[f"{path}.weight"] = matrix.dequantized(dtypes[path])
    return ready


def _log_decision(matrices: Mapping[str, Packed], packed: Collection[str], decision: Decision) -> None:
    kinds = Counter(str(matrix.settings) for matrix in matrices.values())
    log.info(
        "Quantized weights",
        extra={
            "stored": ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            "packed": len(packed),
            "dequantized": len(matrices) - len(packed),
            "reason": decision.reason,
        },
    )
