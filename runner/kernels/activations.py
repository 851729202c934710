"""What gates an MLP: silu(gate) * up, and the tanh form of GELU.

On a CPU both are a quotient with one power of 2 in it, since gelu(x) is x * sigmoid(2u) where its usual form has
x * (1 + tanh(u)) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from mlx.nn.layers.activations import gelu_approx, silu

from runner.kernels.exponential import LOG2_E, two_to

GELU_SLOPE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


@dataclass(frozen=True)
class Activations:
    """The forms of one device."""

    swiglu: Callable[[mx.array, mx.array], mx.array]
    """silu(gate) * up"""
    gelu: Callable[[mx.array], mx.array]


def _silu_times(gate: mx.array, up: mx.array) -> mx.array:
    product: mx.array = silu(gate) * up
    return product


def cpu_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    if gate.dtype != mx.float32:  # a power of a half type would be rounded on the way
        return _silu_times(gate, up)
    return gate / (two_to(gate * -LOG2_E) + 1.0) * up


def cpu_gelu(x: mx.array) -> mx.array:
    if x.dtype != mx.float32:
        rounded: mx.array = gelu_approx(x)
        return rounded
    # An infinite power is a quotient of zero, so no x is out of range until its cube is.
    exponent = x * (x * x * (-2 * LOG2_E * GELU_SLOPE * GELU_CUBIC) - 2 * LOG2_E * GELU_SLOPE)
    return x / (two_to(exponent) + 1.0)


PLAIN = Activations(
    swiglu=mx.compile(_silu_times, shapeless=True),  # one kernel, whatever the length
    gelu=gelu_approx,
)
CPU = Activations(swiglu=cpu_swiglu, gelu=cpu_gelu)
