"""Gemma 4's mixture of experts, which some of its models have beside the dense MLP: router, experts, and the
spellings of their tensors. Letters in `layers/moe.py`.

Knows nothing about config files, attention or caches.
"""

from __future__ import annotations

import re
from typing import ClassVar

import mlx.core as mx

from runner.layers import moe, nn
from runner.layers.moe import add_tensor, join_experts


class Router(nn.Module):
    """The A experts with the largest scores, weighted by the softmax of just these and a factor of each expert."""

    def __init__(self, hidden: int, eps: float, *, experts: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.eps = eps
        self.shrink = hidden**-0.5
        self.proj = nn.Linear(hidden, experts, bias=False)
        self.scale = mx.ones((hidden,))
        self.per_expert_scale = mx.ones((experts,))

    def __call__(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """[T,E] -> the experts of each token and their shares, both [T,A]."""
        normed = mx.fast.rms_norm(tokens, self.scale, self.eps)  # [T,E]
        # In float32, as the model was made; the factor has no close neighbour in a half type.
        scores = self.proj(normed).astype(mx.float32) * self.shrink  # [T,N]
        chosen = mx.argpartition(scores, kth=-self.active, axis=-1)[:, -self.active :]  # [T,A]
        shares = mx.softmax(mx.take_along_axis(scores, chosen, axis=-1), axis=-1)  # [T,A]
        return chosen, shares * self.per_expert_scale[chosen]


class Experts(moe.Experts):
    """GeGLU where others have SwiGLU; weighted where others leave that to whom they belong to."""

    is_summed: ClassVar = True

    def __call__(self, x: mx.array, chosen: mx.array, shares: mx.array | None = None) -> mx.array:
        """Tokens [T,E], the experts of each and their shares [T,A] -> [T,E]; without shares [T,A,E]."""
        out = super().__call__(x, chosen)
        return out if shares is None else (out * shares.astype(x.dtype)[..., None]).sum(axis=1)

    def through(self, rows: mx.array, experts: mx.array, *, in_order: bool) -> mx.array:
        gate = self.gate_proj(rows, experts, in_order=in_order)  # [P,1,F]
        up = self.up_proj(rows, experts, in_order=in_order)  # [P,1,F]
        return self.down_proj(self.activations.gelu(gate) * up, experts, in_order=in_order)


def plain_experts(weights: dict[str, mx.array], experts: int) -> dict[str, mx.array]:
    """Every spelling of the experts' tensors -> `layers.0.experts.gate_proj.weight` and so on, of all experts."""
    one_prefix: dict[str, mx.array] = {}
    for name, array in weights.items():
        for prefix in PREFIXES:
            name = name.replace(prefix, ".experts.")
        add_tensor(one_prefix, name, array)
    found: dict[str, mx.array] = {}
    for name, array in join_experts(one_prefix, experts).items():
        add_tensor(found, BARE_ENDING.sub(lambda bare: f"{bare[1]}.{ENDINGS[bare[2]]}", name), array)
    return found


PREFIXES = (".experts.switch_glu.", ".moe.switch_mlp.", ".moe.experts.")  # mlx-lm's, and hosts' of two times
# A host that quantizes a tensor named `gate_up_proj` appends to just that.
BARE_ENDING = re.compile(r"(\.experts\.(?:gate|up|down)_proj)\.(scale|bias)$")
ENDINGS = {"scale": "scales", "bias": "biases"}
