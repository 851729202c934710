"""Scaled dot-product attention of several queries with CUDA, with the arguments of MLX's own.

MLX hands it to cuDNN, which makes a plan for every shape that it has not met: 45 ms on an H200, where a prompt of
300 tokens takes a 1 B model 5 ms. Lengths of prompts hardly ever come again. So cuDNN meets few shapes here:

    a prompt from its beginning, and whole chunks    padded: behind the last query and the last key stand as many
                                                     zeros, so that a causal mask stays what it is
    anything else, while it is small                 by products and a softmax in float32, by blocks of queries
    anything else                                    a plan of its own, which it is worth

    B  rows     H  query heads     K  key/value heads     L  queries     S  keys     D  width
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.attention import Mask, hidden_where_unseen, plain

SIZES = (128, 256, 384, 512, 768, 1024, 1536, 2048)  # queries
CHUNK = 512  # whole chunks are one of SIZES behind a multiple of it
BLOCK = 256  # queries of a block by hand
BY_HAND = 2**27  # scores [H,L,S] at most; an estimate of what 45 ms are enough for in a model of 32 layers


def on_cuda(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: Mask = None,
    sinks: mx.array | None = None,
) -> mx.array:
    _, heads, length, _ = queries.shape
    shown = keys.shape[2]
    if length == 1:
        return plain(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
    past, is_small = shown - length, heads * length * shown <= BY_HAND
    comes_again = past == 0 or (past % CHUNK == 0 and length in SIZES)
    if isinstance(mask, str) and sinks is None and length <= SIZES[-1] and (comes_again or not is_small):
        return _padded(queries, keys, values, scale)
    if is_small:
        return _by_hand(queries, keys, values, scale, mask, sinks)
    return plain(queries, keys, values, scale=scale, mask=mask, sinks=sinks)


def _padded(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """A causal mask aligns the last query with the last key, and zeros behind both move neither."""
    length = queries.shape[2]
    more = next(size for size in SIZES if size >= length) - length
    # Made whole even if nothing is added: a slice of a buffer has strides, which are a part of a plan.
    longer = (mx.contiguous(_longer(array, more)) for array in (queries, keys, values))
    found = mx.fast.scaled_dot_product_attention(*longer, scale=scale, mask="causal")
    return found[:, :, :length]


def _longer(array: mx.array, more: int) -> mx.array:
    return mx.pad(array, [(0, 0), (0, 0), (0, more), (0, 0)]) if more else array


def _by_hand(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Mask, sinks: mx.array | None
) -> mx.array:
    """In float32: a score that bfloat16 rounds may be off by a tenth."""
    length, shown = queries.shape[2], keys.shape[2]
    keys, values = keys.astype(mx.float32), values.astype(mx.float32)
    found = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        block = queries[:, :, start:end].astype(mx.float32) * scale
        seen = shown - length + end if isinstance(mask, str) else shown
        bias = _bias(mask, start, end, length, seen)
        found.append(_block(block, keys[:, :, :seen], values[:, :, :seen], bias, sinks))
    return mx.concatenate(found, axis=2).astype(queries.dtype)


def _bias(mask: Mask, start: int, end: int, length: int, seen: int) -> mx.array | None:
    """What is added to the scores of queries [start, end): [end-start,seen], or None."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return hidden_where_unseen(mx.arange(seen) <= mx.arange(seen - (end - start), seen)[:, None])
    rows = mask[..., start:end, :]
    return hidden_where_unseen(rows) if mask.dtype == mx.bool_ else rows.astype(mx.float32)


def _block(
    queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array | None, sinks: mx.array | None
) -> mx.array:
    """queries: scaled. -> [B,H,L,D]."""
    batch, heads, length, width = queries.shape
    shared, shown = keys.shape[1], keys.shape[2]
    scores = queries.reshape(batch, shared, -1, width) @ keys.swapaxes(-1, -2)  # [B,K,H/K*L,S]
    scores = scores.reshape(batch, heads, length, shown)
    if bias is not None:
        scores = scores + bias
    if sinks is not None:
        logits = mx.broadcast_to(sinks.astype(mx.float32)[:, None, None], (batch, heads, length, 1))
        scores = mx.concatenate([scores, logits], axis=-1)
    weights = mx.softmax(scores, axis=-1)[..., :shown]
    found = weights.reshape(batch, shared, -1, shown) @ values
    return found.reshape(batch, heads, length, -1)
