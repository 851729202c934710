"""Linear, HeadLinear, Embedding and ExpertLinear over quantized weights: the twins that take their places in a
built model.

An architecture's file makes the float layers and never learns of these. Their parameters are the
parts of `runner/quantization/collect.py`; shapes there, letters in `models/base.py`.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import mlx.core as mx
from mlx.utils import tree_unflatten

from runner.kernels import choice, pacing
from runner.kernels.product import MOST, Around, Matrix, Product
from runner.layers import nn
from runner.layers.latent import HeadLinear
from runner.layers.moe import ExpertLinear, gathered
from runner.quantization.matrix import Packed
from runner.quantization.settings import Quantization

PARTS = ("weight", "scales", "biases")

# Pairs of token and expert. With CUDA MLX's product of packed experts reads an expert's weights again for every few
# of them: 10.5 ms for 16,384 pairs with 128 experts of Qwen3-30B-A3B on an H200, and 1.2 ms by way of floats. From
# here on to 1,024 floats take up to three times as long, but nobody waits 25 s for MLX to compile that product.
DENSE_FROM = 256


class PackedMatrix(nn.Module):
    """[N,W] in parts. `dtype` is what rows are dequantized to: byte scales do not say it."""

    def __init__(self, packed: Packed, dtype: mx.Dtype) -> None:
        super().__init__()
        self._settings: Quantization = packed.settings
        self._dtype = dtype
        self._has_products = choice.products() is not None
        self._dequantize = choice.dequantize()
        self._few: Product | None = None  # made at first use: weights are assigned later
        for name, array in packed.tensors(dtype).items():
            setattr(self, name, array)

    @property
    def kind(self) -> tuple[Quantization, mx.Dtype, frozenset[str]]:
        """What layers have in common whose rows may stand in one."""
        return self._settings, self._dtype, frozenset(self)

    @property
    def dense_bytes(self) -> int:
        """Of the floats that it becomes for many positions; 0 if it stays packed."""
        numbers: int = self["scales"].size * self._settings.group_size
        return numbers * self._dtype.size if self._has_products else 0

    def times(self, x: mx.array, *, transpose: bool = True) -> mx.array:
        """[..,W] -> [..,N], as a linear layer does; without `transpose` [..,N] -> [..,W]."""
        if self._has_products and transpose:
            return self._times_by_number(x)
        return self._times_packed(x, transpose=transpose)

    def _times_by_number(self, x: mx.array) -> mx.array:
        """MLX's packed product reads the weights again for each few positions. So few go through a kernel of ours,
        where there is one, and for many the weights become floats.
        """
        if x.size // x.shape[-1] > MOST:
            pacing.about_to_make(x, self.dense_bytes)
            return x @ self._dense().swapaxes(-1, -2)
        if self._few is None:
            products, matrix = choice.products(), matrix_of(self)
            if products is None or x.dtype != self._dtype or not products.fits(matrix):
                return self._times_packed(x)
            self._few = products.make(matrix._replace(bias=None), Around())
        return self._few(x.reshape(-1, 1, x.shape[-1]), None).reshape(*x.shape[:-1], -1)

    def _times_packed(self, x: mx.array, *, transpose: bool = True) -> mx.array:
        settings = self._settings
        y = mx.quantized_matmul(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            transpose=transpose,
            group_size=settings.group_size,
            bits=settings.bits,
            mode=settings.mode,
        )
        return self._scaled(y)

    def rows(self, ids: mx.array) -> mx.array:
        """[..] -> [..,W]."""
        return self._scaled(self._floats({name: self[name][ids] for name in PARTS if name in self}))

    def _dense(self) -> mx.array:
        """[N,W]. Scaled before it is multiplied: sums of what is not might leave the range of a half type."""
        parts = {name: self[name] for name in PARTS if name in self}
        if "biases" in parts:
            dense = self._dequantize(parts["weight"], parts["scales"], parts["biases"], self._settings.bits)
        else:
            dense = self._floats(parts)
        factor: mx.array | None = self.get("global_scale")
        if factor is None:
            return dense
        return (dense * (factor[:, None] if factor.ndim == 1 else factor)).astype(dense.dtype)

    def _floats(self, parts: Mapping[str, mx.array]) -> mx.array:
        settings = self._settings
        return mx.dequantize(
            parts["weight"],
            parts["scales"],
            parts.get("biases"),
            group_size=settings.group_size,
            bits=settings.bits,
            mode=settings.mode,
            dtype=self._dtype,
        )

    def _scaled(self, y: mx.array) -> mx.array:
        """Multiplied in float32: the factor may have no close neighbour in a half type."""
        return (y * self["global_scale"]).astype(y.dtype) if "global_scale" in self else y


class PackedLinear(PackedMatrix):
    """nn.Linear's twin; a real bias is added last and is not scaled."""

    def __init__(self, packed: Packed, dtype: mx.Dtype, bias: bool) -> None:
        super().__init__(packed, dtype)
        if bias:
            self.bias = mx.zeros((packed.shape[0],))

    def __call__(self, x: mx.array) -> mx.array:
        y = self.times(x)
        return y + self.bias if "bias" in self else y

    def factors(self) -> mx.array:
        """[N]: the global scale of each row."""
        return mx.broadcast_to(self["global_scale"], (self["weight"].shape[0],))


def matrix_of(layer: PackedMatrix) -> Matrix:
    """Its parts as few positions are multiplied with."""
    return _matrix(layer, layer._settings, layer._dtype)


def has_kernel(packed: Packed, dtype: mx.Dtype) -> bool:
    """Whether few positions are multiplied with such a matrix by a kernel of ours."""
    return choice.multiplies(_matrix(packed.tensors(dtype), packed.settings, dtype))


def _matrix(parts: Mapping[str, mx.array], settings: Quantization, dtype: mx.Dtype) -> Matrix:
    return Matrix(
        parts["weight"],
        parts["scales"],
        parts.get("biases"),
        settings.bits,
        settings.group_size,
        parts.get("bias"),
        settings.mode,
        parts.get("global_scale"),
        dtype,
    )


def stacked(layers: Sequence[PackedLinear]) -> PackedLinear | None:
    """The rows of all as one layer; None if they are not of one kind."""
    first = layers[0]
    if any(layer.kind != first.kind for layer in layers):
        return None
    whole = copy(first)
    for key in first:
        parts = [layer.factors() if key == "global_scale" else layer[key] for layer in layers]
        whole[key] = mx.concatenate(parts)
    return whole


class PackedHeads(PackedMatrix):
    """HeadLinear's twin."""

    def __call__(self, x: mx.array) -> mx.array:
        return self.times(x)

    def transposed(self, x: mx.array) -> mx.array:
        return self.times(x, transpose=False)


class PackedEmbedding(PackedMatrix):
    """nn.Embedding's twin."""

    def __call__(self, ids: mx.array) -> mx.array:
        return self.rows(ids)

    def as_linear(self, x: mx.array) -> mx.array:
        """The head of a model that ties it to its embedding."""
        return self.times(x)


class PackedExperts(PackedMatrix):
    """ExpertLinear's twin; its weights have one more dimension in front. Letters in `layers/moe.py`."""

    def __call__(self, x: mx.array, experts: mx.array, *, in_order: bool) -> mx.array:
        """Rows [P,1,inputs] and the expert of each [P] -> [P,1,outputs]."""
        if self._has_products and experts.size >= DENSE_FROM:
            pacing.about_to_make(x, self.dense_bytes)
            return gathered(x, self._dense(), experts, in_order=in_order)
        settings = self._settings
        y = mx.gather_qmm(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            rhs_indices=experts,
            transpose=True,
            group_size=settings.group_size,
            bits=settings.bits,
            mode=settings.mode,
            sorted_indices=in_order,
        )
        if "global_scale" not in self:
            return y
        factor: mx.array = self["global_scale"]  # a scalar or [N,1,1]
        return (y * (factor[experts] if factor.ndim else factor)).astype(y.dtype)


def replace(root: nn.Module, packed: Mapping[str, Packed], dtypes: Mapping[str, mx.Dtype]) -> list[str]:
    """Put twins in the places of the float layers; returns the paths where there are now packed ones.

    dtypes: for each path the type to compute in. Left as they are: layers that have no twin, and group sizes that
    MLX has no kernel for.
    """
    twins: list[tuple[str, nn.Module]] = []
    for path, module in root.named_modules():  # type: ignore[no-untyped-call]  # mlx leaves it open
        part = packed.get(path)
        if part is None or not part.settings.has_kernel:
            continue
        if type(module) is nn.Linear:
            twins.append((path, PackedLinear(part, dtypes[path], bias="bias" in module)))
        elif type(module) is HeadLinear:
            twins.append((path, PackedHeads(part, dtypes[path])))
        elif type(module) is nn.Embedding:
            twins.append((path, PackedEmbedding(part, dtypes[path])))
        elif type(module) is ExpertLinear:
            twins.append((path, PackedExperts(part, dtypes[path])))
        elif hasattr(module, "to_quantized") and part.global_scale is None:  # mlx-lm's, which bring their own
            settings = part.settings
            twin = module.to_quantized(settings.group_size, settings.bits, mode=settings.mode)
            twins.append((path, twin))
    root.update_modules(tree_unflatten(twins))
    return [path for path, _ in twins]
