"""A draw whose noise belongs to the token's id.

A draw is a race. Candidate i arrives at E_i / p_i, where E_i is a number from the exponential distribution, and the
first one wins: each as often as p_i says (the Gumbel-max trick, written without logarithms of p). E_i is a function
of the draw's key and of the id i, not of i's rank nor of who else is a candidate. So logits that differ by a
rounding, as those of a cold and a warm cache do, give another token only where the first two arrive together, or
where the winner itself enters or leaves the candidates. Noise by rank would let any two candidates that change
places change the text.

Noise comes from SplitMix64 (Steele et al. 2014), twice: the seed's sequence gives each draw a key, and the key's
sequence gives each id 64 bits. Candidates cost what they are, and not a random number for the whole vocabulary.

B rows, V vocabulary, N candidates.

Knows nothing about options.
"""

from __future__ import annotations

import math
import os

import mlx.core as mx

from runner.generation.filters import Candidates

_U64 = 2**64 - 1
_WEYL = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


def drawn(found: Candidates, keys: mx.array) -> mx.array:
    """One id [B] of each row, each as often as its probability says. keys: [B] uint64, one for each row."""
    arrival = exponentials(keys[:, None], found.ids) / found.p
    first = mx.argmin(mx.where(found.p > 0, arrival, math.inf), axis=-1, keepdims=True)
    return mx.take_along_axis(mx.broadcast_to(found.ids, arrival.shape), first, axis=-1).squeeze(-1)


def exponentials(keys: mx.array, ids: mx.array) -> mx.array:
    """Numbers from the exponential distribution, float32: one for each pair of a key (uint64) and an id, whose
    shapes are broadcast.
    """
    weyl, first, second = (words(number) for number in (_WEYL, *_MIX))
    bits = keys + weyl * (ids.astype(mx.uint64) + 1)
    bits = (bits ^ (bits >> 30)) * first
    bits = (bits ^ (bits >> 27)) * second
    bits = bits ^ (bits >> 31)
    # 32 bits in the middle of their step: small numbers decide, and near 0 float32 has all of them.
    uniform = (bits >> 32).astype(mx.float32) * 2**-32 + 2**-33
    return -mx.log1p(-mx.minimum(uniform, _BELOW_ONE))


def words(*numbers: int) -> mx.array:
    """Numbers of 64 bits as uint64; MLX takes none above 2^63 by itself."""
    halves = [half for number in numbers for half in (number & 0xFFFFFFFF, number >> 32)]
    return mx.array(halves, mx.uint32).view(mx.uint64)


def splitmix64(state: int) -> int:
    """The output of SplitMix64 at a state that was already advanced; 64 bits in and out."""
    z = state & _U64
    z = (z ^ (z >> 30)) * _MIX[0] & _U64
    z = (z ^ (z >> 27)) * _MIX[1] & _U64
    return z ^ (z >> 31)


def draw_key(seed: int, number: int) -> int:
    """The key of a request's draw, counted from 0, whatever other requests draw."""
    return splitmix64(seed + _WEYL * (number + 1))


def fresh_seed() -> int:
    """A seed from system entropy."""
    return int.from_bytes(os.urandom(8), "little")
