"""Many positions of linear attention by the gated delta rule, T at once, by matrix products (Yang et al. 2024,
arXiv 2406.06484). What does not depend on S is worked out for all chunks at once (`prepared`). With S before a
chunk, its positions then write, answer, and leave S:

    writes = fresh - corrected S        answers = queries S + scores writes        S <- kept S + keys^T writes

This is the plain form; `delta_chunks_cuda.py` has kernels, one operation for each of the two parts.

    N  chunks     T  positions of a chunk     B, H, L, P, Q  as in `delta.py`     everything float32

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

CHUNK = 32  # positions, T; a power of 2


class Chunks(NamedTuple):
    """What is known of all chunks, whatever S is."""

    fresh: mx.array  # [B,H,N,T,Q]
    corrected: mx.array  # [B,H,N,T,P]
    scores: mx.array  # [B,H,N,T,T]
    queries: mx.array  # [B,H,N,T,P]
    keys: mx.array  # [B,H,N,T,P]
    kept: mx.array  # [B,H,N]


def chunked(
    queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """A `Recurrence`."""
    answers, memory = through(prepared(queries, keys, values, decay, rate), memory)
    return answers.flatten(2, 3)[:, :, : keys.shape[2]], memory


def prepared(queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array) -> Chunks:
    """With S the memory before a chunk and faded(i,j) the product of the decays of (j,i], position i writes

        write(i) = b(i) (v(i) - faded(i,0) k(i) S - sum over j < i of faded(i,j) k(i) k(j)^T write(j))

    which is a unit triangular system for all writes of the chunk at once. Its inverse does not depend on S.
    """
    batch, heads, length, _ = keys.shape
    missing = -length % CHUNK  # filled up with positions that fade nothing and write nothing

    def cut(x: mx.array) -> mx.array:
        """[B,H,L,..] -> [B,H,N,T,..]."""
        padded = mx.pad(x, [(0, 0), (0, 0), (0, missing), *[(0, 0)] * (x.ndim - 3)])
        return padded.reshape(batch, heads, -1, CHUNK, *x.shape[3:])

    queries, keys, values, decay, rate = (cut(x) for x in (queries, keys, values, decay, rate))
    decay, rate = decay[..., None], rate[..., None]  # [B,H,N,T,1]
    since_start = mx.exp(mx.cumsum(decay, axis=-2))
    # What (j,i] fades is summed up by itself: as a difference of two sums a small decay is lost beside a large one.
    before = mx.tril(mx.ones((CHUNK, CHUNK), mx.bool_), -1)  # [T,T]
    faded = mx.tril(mx.exp(mx.cumsum(mx.where(before, decay, 0), axis=-2)))  # [B,H,N,T,T]
    across = keys.swapaxes(-1, -2)  # [B,H,N,P,T]
    solved = inverse(mx.tril(rate * (keys @ across) * faded, -1))  # [B,H,N,T,T]
    fresh = solved @ (rate * values)  # [B,H,N,T,Q]: the writes if S were 0
    corrected = solved @ (rate * since_start * keys)  # [B,H,N,T,P]: what S takes from them
    scores = (queries @ across) * faded  # [B,H,N,T,T]
    return Chunks(
        fresh,
        corrected,
        scores,
        queries * since_start,
        keys * faded[..., -1, :, None],
        since_start[..., -1, 0],  # what a whole chunk leaves of S
    )


def through(chunks: Chunks, memory: mx.array) -> tuple[mx.array, mx.array]:
    """From S before the first chunk [B,H,P,Q]: answers [B,H,N,T,Q], and S behind the last one."""
    answers = []
    for n in range(chunks.kept.shape[2]):
        fresh, corrected, scores, queries, keys, kept = (part[:, :, n] for part in chunks)
        writes = fresh - corrected @ memory  # [B,H,T,Q]
        answers.append(queries @ memory + scores @ writes)
        memory = memory * kept[..., None, None] + keys.swapaxes(-1, -2) @ writes
    return mx.stack(answers, axis=2), memory


def inverse(lower: mx.array) -> mx.array:
    """The inverse of 1 + a strictly lower triangular matrix [..,T,T], by halves: as exact as one by rows would be,
    where the shorter way by powers of the matrix loses everything to keys that repeat.
    """
    size = lower.shape[-1]
    if size == 2:
        return mx.eye(2) - lower
    half = size // 2
    diagonal = mx.stack([lower[..., :half, :half], lower[..., half:, half:]], axis=-3)
    both = inverse(diagonal)
    top, bottom = both[..., 0, :, :], both[..., 1, :, :]
    corner = -(bottom @ lower[..., half:, :half] @ top)
    upper = mx.concatenate([top, mx.zeros_like(top)], axis=-1)
    return mx.concatenate([upper, mx.concatenate([corner, bottom], axis=-1)], axis=-2)
