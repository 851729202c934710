"""Many positions of linear attention by the gated delta rule, in chunks: what goes from one chunk to the next.

What does not depend on S was worked out for all chunks at once (`layers/gated_delta.py`). With S before a chunk,
its positions write, answer, and leave S:

    writes = fresh - corrected S        answers = queries S + scores writes        S <- kept S + keys^T writes

    N  chunks     T  positions of a chunk     B, H, P, Q  as in `delta.py`     everything float32

This is the plain form, chunk by chunk; `delta_chunks_cuda.py` has the kernel, which is one operation.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx


class Chunks(NamedTuple):
    """What is known of all chunks, whatever S is."""

    fresh: mx.array  # [B,H,N,T,Q]
    corrected: mx.array  # [B,H,N,T,P]
    scores: mx.array  # [B,H,N,T,T]
    queries: mx.array  # [B,H,N,T,P]
    keys: mx.array  # [B,H,N,T,P]
    kept: mx.array  # [B,H,N]


Through = Callable[[Chunks, mx.array], tuple[mx.array, mx.array]]
"""The chunks, and S before the first one [B,H,P,Q] -> answers [B,H,N,T,Q], and S behind the last one."""


def plain(chunks: Chunks, memory: mx.array) -> tuple[mx.array, mx.array]:
    answers = []
    for n in range(chunks.kept.shape[2]):
        fresh, corrected, scores, queries, keys, kept = (part[:, :, n] for part in chunks)
        writes = fresh - corrected @ memory  # [B,H,T,Q]
        answers.append(queries @ memory + scores @ writes)
        memory = memory * kept[..., None, None] + keys.swapaxes(-1, -2) @ writes
    return mx.stack(answers, axis=2), memory
