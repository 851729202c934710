"""The norm whose weight a checkpoint stores as what it adds to 1. Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.layers import nn


class ZeroCentredNorm(nn.RMSNorm):
    """RMSNorm with a weight in float32, as the models were made. It multiplies by its weight: an architecture's
    `rename` makes that of what is stored, once, by `whole_weight`.
    """

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)


def whole_weight(stored: mx.array) -> mx.array:
    """1 + what is stored, added in float32: near 1 half precision has few values."""
    return stored.astype(mx.float32) + 1
