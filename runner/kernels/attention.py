"""Scaled dot-product attention, with the arguments of MLX's own.

On a CPU MLX makes it of products and a softmax, and a causal mask anew in each layer. Here it goes by blocks of
queries, each over the keys that one of its queries sees, so that scores stay in the processor's cache and fewer are
worked out; exponentials are powers of 2. A query by itself goes head by head: products of one row are computed by
one thread, where those of a few are shared out among MKL's threads, which takes as long and keeps all cores busy.

H query heads share K heads of keys and values:

    B  rows     L  queries     S  keys     D  width     G  H/K * L, the queries of one key/value head
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from runner.kernels.exponential import LOG2_E, two_to

Mask = mx.array | str | None
"""What `mx.fast.scaled_dot_product_attention` takes: "causal", an array, or None for no mask."""

BLOCK = 64  # queries; 32 and 128 were as fast, 16 and 256 slower
ALONE_TO = 1024  # keys; behind more of them it pays to read them once for all heads that share them


class Attention(Protocol):
    """queries [B,H,L,D], keys and values [B,K,S,D] -> [B,H,L,D]."""

    def __call__(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        /,
        *,
        scale: float,
        mask: Mask = None,
        sinks: mx.array | None = None,
    ) -> mx.array: ...


plain: Attention = mx.fast.scaled_dot_product_attention


def on_cpu(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: Mask = None,
    sinks: mx.array | None = None,
) -> mx.array:
    if queries.dtype != mx.float32 or (isinstance(mask, mx.array) and mask.dtype != mx.bool_):
        return plain(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
    queries = queries * (scale * LOG2_E)
    if mask is None:
        return _attend(queries, keys, values, None, sinks)
    length, shown = queries.shape[2], keys.shape[2]
    whole = hidden_where_unseen(mask) if isinstance(mask, mx.array) else None
    causal = _causal_bias(min(length, BLOCK), shown)
    found = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        if whole is None:
            seen = shown - length + end
            bias = causal[start - end :, shown - seen :]
        else:
            seen, bias = shown, whole[start:end]
        found.append(_attend(queries[:, :, start:end], keys[:, :, :seen], values[:, :, :seen], bias, sinks))
    return found[0] if len(found) == 1 else mx.concatenate(found, axis=2)


def hidden_where_unseen(seen: mx.array) -> mx.array:
    """What is added to scores: nothing, or less than any number where a query must not look."""
    return mx.where(seen, 0.0, -mx.inf)


def _causal_bias(length: int, shown: int) -> mx.array:
    """That of the last `length` of all positions [length,S]. Rows and columns at its end are that of a block that
    ends elsewhere.
    """
    return hidden_where_unseen(mx.arange(shown) <= mx.arange(shown - length, shown)[:, None])


def _attend(
    queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array | None, sinks: mx.array | None
) -> mx.array:
    """One block. queries: in units of powers of 2. bias: [L,S]."""
    batch, heads, length, width = queries.shape
    shared, shown = keys.shape[1], keys.shape[2]
    alone = length == 1 and shown <= ALONE_TO
    scores = _products(queries.reshape(batch, shared, -1, width), keys.swapaxes(-1, -2), alone)  # [B,K,G,S]
    if bias is not None:
        scores = (scores.reshape(batch, heads, length, shown) + bias).reshape(scores.shape)
    highest = scores.max(axis=-1, keepdims=True)  # [B,K,G,1]
    if sinks is not None:
        logits = mx.repeat(sinks.astype(scores.dtype) * LOG2_E, length).reshape(shared, -1, 1)  # [K,G,1]
        highest = mx.maximum(highest, logits)
    weights = two_to(scores - highest)  # [B,K,G,S]
    total = weights.sum(axis=-1, keepdims=True)  # [B,K,G,1]
    if sinks is not None:
        total = total + two_to(logits - highest)
    return (_products(weights, values, alone) / total).reshape(batch, heads, length, -1)


def _products(rows: mx.array, matrices: mx.array, alone: bool) -> mx.array:
    """[B,K,G,X] and [B,K,X,Y] -> [B,K,G,Y]. alone: row by row."""
    return (rows[..., None, :] @ matrices[:, :, None])[..., 0, :] if alone else rows @ matrices
