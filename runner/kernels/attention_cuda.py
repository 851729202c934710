"""Scaled dot-product attention of several queries with CUDA, with the arguments of MLX's own.

MLX hands it to cuDNN, which makes a plan for every shape that it has not met: 45 ms on an H200, where a prompt of
300 tokens takes a 1 B model 5 ms. Lengths of prompts hardly ever come again, and neither does what is kept of one
when the next one comes. So cuDNN meets few shapes here:

    all that queries see is one chunk long or less    as many queries as keys, filled up to one of SIZES
    they see more                                     one of SIZES behind a multiple of STEP
    they see more, and few of them do                 by products and a softmax in float32, by blocks of queries
    anything but a causal mask                        the same, or a plan of its own where there is much of it

What fills up is zeros. Behind the last query and the last key a causal mask hides them; before the first query
stand as many as there are keys that were kept, and what they find is dropped. So where all is one chunk long or
less, each query finds the same, to the bit, whatever was kept.

    B  rows     H  query heads     K  key/value heads     L  queries     S  keys     D  width
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.attention import Mask, hidden_where_unseen, plain
from runner.machine.device import PREFILL_CHUNK

SIZES = (128, 256, 384, 512, 768, 1024, 1536, 2048, 2560)  # queries
CHUNK = PREFILL_CHUNK["cuda"]  # up to it, plans of as many queries as keys are made before the first request
STEP = 512
BLOCK = 256  # queries of a block by hand
# Scores [H,L,S] that are worked out by hand at most, where a plan may come again (they take some 10 ms in a model
# of 32 layers, a plan 45 and more), and where it hardly ever does, which is an estimate.
BEFORE_A_PLAN, BEFORE_A_RARE_PLAN = 2**23, 2**27


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
    scores = heads * length * shown
    if isinstance(mask, str) and sinks is None and length <= CHUNK:
        if shown <= CHUNK or scores > BEFORE_A_PLAN:
            return _filled_up(queries, keys, values, scale)
    elif scores > BEFORE_A_RARE_PLAN:
        return plain(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
    return _by_hand(queries, keys, values, scale, mask, sinks)


def _filled_up(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """A causal mask aligns the last query with the last key."""
    length, shown = queries.shape[2], keys.shape[2]
    past = shown - length
    before = past if shown <= CHUNK else past % STEP
    after = next(size for size in SIZES if size >= before + length) - before - length
    # Made whole even if nothing is added: a slice of a buffer has strides, which are a part of a plan.
    found = mx.fast.scaled_dot_product_attention(
        mx.contiguous(_longer(queries, before, after)),
        mx.contiguous(_longer(keys, 0, after)),
        mx.contiguous(_longer(values, 0, after)),
        scale=scale,
        mask="causal",
    )
    return found[:, :, before : before + length]


def _longer(array: mx.array, before: int, after: int) -> mx.array:
    return mx.pad(array, [(0, 0), (0, 0), (before, after), (0, 0)]) if before or after else array


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
