"""Weights whose numbers stand in memory input by input, not output by output as in a checkpoint.

One position times a weight [N,W] is N sums of W products. MKL works them out one after the other, and where W is
small it is slow between them. Where an input's numbers stand together it adds W multiples of a vector of N,
1.3 to 1.8 times as fast on an AMD EPYC (Zen 4). Many positions take as long either way, 2 to 16 up to a third
longer. OpenBLAS loses by it and other processors may, so it is tried first.

The shape stays [N,W]; only the strides differ.

N outputs     W inputs
"""

from __future__ import annotations

import time
from functools import cache

import mlx.core as mx

LEAST = 1 << 18  # numbers; smaller weights stay in the processor's cache, where both ways are as fast
MOST_INPUTS = 1024  # from 2,048 on both ways are as fast
BLOCK = 128  # outputs
TRIED = (8192, 576)  # 19 MB, which come from the memory
ROUNDS = 5
PAYS = 1.15  # times as fast; 1.5 to 2 were seen, or less than 1


def suits(weight: mx.array) -> bool:
    """Whether it may be read faster."""
    if weight.ndim != 2 or weight.dtype != mx.float32 or weight.size < LEAST:
        return False
    outputs, inputs = weight.shape
    return outputs > inputs and inputs <= MOST_INPUTS


def by_inputs(weight: mx.array) -> mx.array:
    """The same [N,W]. Block by block: MLX's own copy of a transposed matrix misses the cache at each number."""
    blocks = [weight[start : start + BLOCK].T for start in range(0, weight.shape[0], BLOCK)]
    return mx.contiguous(mx.concatenate(blocks, axis=1)).T  # a single block was not copied


@cache
def is_faster() -> bool:
    """Whether products of one position are, by trial: some hundredths of a second, and 38 MB for as long."""
    weight, x = mx.zeros(TRIED), mx.zeros((1, TRIED[1]))
    ways = [weight, by_inputs(weight)]
    mx.eval(ways, x)
    rounds = [[_seconds(x, way) for way in ways] for _ in range(ROUNDS)]
    best = [min(times) for times in zip(*rounds, strict=True)]
    return bool(best[0] > PAYS * best[1])


def _seconds(x: mx.array, weight: mx.array) -> float:
    started = time.perf_counter()
    mx.eval(x @ weight.T)
    return time.perf_counter() - started
