"""A mixture of experts behind the product of its router, for a few positions: the choice of the experts, their
gated MLPs, and the sum of what they make, which is added to what came in. An expert that every token uses may stand
beside them, in the measure that one more logit says.

    x [B,L,E], the logits [B,L,N] or [B,L,N+1] -> [B,L,E]       B*L positions, at most MOST of `product.py`

Letters are those of `layers/moe.py`: N experts of width F, of which A are used by one token; T tokens, B*L; P pairs
of a token and an expert, T*A.

This is the plain form, of MLX's own operations; `experts_cuda.py` has the kernels, which are two operations.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from runner.kernels.activations import PLAIN as PLAIN_ACTIVATIONS
from runner.kernels.product import Around, Matrix, Norm
from runner.kernels.product import plain as plain_product


class Shared(NamedTuple):
    """The expert that every token uses."""

    gate_up: Matrix  # [2*F,E]
    down: Matrix  # [E,F]


class Bank(NamedTuple):
    """All experts, and how a token uses them. following: a weight that will be read next, which may be fetched
    ahead.
    """

    gate: Matrix  # [N,F,E]
    up: Matrix  # [N,F,E]
    down: Matrix  # [N,E,F]
    norm: Norm  # of what comes in
    active: int  # A
    normalized: bool  # the shares of a token's experts add up to 1
    shared: Shared | None = None
    following: mx.array | None = None

    @property
    def experts(self) -> int:
        """N."""
        number: int = self.gate.weight.shape[0]
        return number

    @property
    def used(self) -> int:
        """By one token, with the shared one."""
        return self.active + (self.shared is not None)


Mix = Callable[[mx.array, mx.array], mx.array]
"""x and the logits."""


class Mixing(NamedTuple):
    """A way to compute a mixture. fits: whether it is there for such experts."""

    fits: Callable[[Bank], bool]
    make: Callable[[Bank], Mix]


def choose(logits: mx.array, active: int, *, normalized: bool) -> tuple[mx.array, mx.array]:
    """[T,N] -> the A most probable experts of each token and their shares, both [T,A]."""
    # In float32, as the model was made: half precision makes ties, and a tie picks another expert.
    odds = mx.softmax(logits.astype(mx.float32), axis=-1)  # [T,N]
    chosen = mx.argpartition(odds, kth=-active, axis=-1)[:, -active:]
    shares = mx.take_along_axis(odds, chosen, axis=-1)
    return chosen, shares / shares.sum(axis=-1, keepdims=True) if normalized else shares


def plain(bank: Bank) -> Mix:
    def mix(x: mx.array, logits: mx.array) -> mx.array:
        normed = mx.fast.rms_norm(x, bank.norm.weight, bank.norm.eps).astype(x.dtype)
        odds, measure = mx.split(logits, [bank.experts], axis=-1)  # [B,L,N], [B,L,1] or empty
        mixed = x + _mixed(bank, normed.flatten(0, -2), odds.flatten(0, -2)).reshape(x.shape)
        return mixed if bank.shared is None else mixed + mx.sigmoid(measure) * _shared(bank.shared, normed)

    return mix


def _mixed(bank: Bank, tokens: mx.array, logits: mx.array) -> mx.array:
    """[T,E] and [T,N] -> [T,E]."""
    chosen, shares = choose(logits, bank.active, normalized=bank.normalized)
    experts = chosen.flatten()  # [P]
    rows = mx.repeat(tokens, bank.active, axis=0)[:, None]  # [P,1,E]
    gate, up = (_times(rows, matrix, experts) for matrix in (bank.gate, bank.up))  # [P,1,F]
    out = _times(PLAIN_ACTIVATIONS.swiglu(gate, up), bank.down, experts)  # [P,1,E]
    weighted = out.reshape(*chosen.shape, -1) * shares.astype(tokens.dtype)[..., None]  # [T,A,E]
    return weighted.sum(axis=1)


def _times(rows: mx.array, matrix: Matrix, experts: mx.array) -> mx.array:
    """[P,1,W] and the expert of each -> [P,1,N]."""
    if matrix.scales is None:
        return mx.gather_mm(rows, matrix.weight.swapaxes(-1, -2), rhs_indices=experts)
    y = mx.gather_qmm(
        rows,
        matrix.weight,
        matrix.scales,
        matrix.biases,
        rhs_indices=experts,
        group_size=matrix.group_size,
        bits=matrix.bits,
        mode=matrix.mode,
    )
    factor = matrix.factor  # one, or [N,1,1]
    return y if factor is None else (y * (factor[experts] if factor.ndim else factor)).astype(y.dtype)


def _shared(shared: Shared, tokens: mx.array) -> mx.array:
    gated = plain_product(shared.gate_up, Around(gated=True))(tokens, None)
    return plain_product(shared.down, Around())(gated, None)


PLAIN = Mixing(lambda bank: True, plain)
