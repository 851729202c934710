"""Arrays cut along one of their dimensions. All of it is recipes: nothing is evaluated here.

Knows nothing about layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import mlx.core as mx

from runner.errors import UnsupportedModel
from runner.sharding.shares import Share


def cut(array: mx.array, axis: int, share: Share, parts: Sequence[int] = ()) -> mx.array:
    """Our units of an array's dimension, or of each of the parts that it has. A copy, or a part would hold the
    whole. Raises UnsupportedModel if a unit is no whole number of entries.
    """
    lengths = parts or (array.shape[axis],)
    found = []
    for start, length in zip(accumulate((0, *lengths)), lengths, strict=False):
        if length % share.total:
            raise UnsupportedModel(
                f"a dimension of {length} entries cannot be divided by {share.total}: a model quantized in larger "
                "groups than its heads have numbers, perhaps"
            )
        unit = length // share.total
        for first, last in _runs(share.ours):
            found.append(_slice(array, axis, start + first * unit, start + (last + 1) * unit))
    return mx.contiguous(found[0] if len(found) == 1 else mx.concatenate(found, axis=axis))


def _slice(array: mx.array, axis: int, start: int, end: int) -> mx.array:
    return array[(*[slice(None)] * (axis % array.ndim), slice(start, end))]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of neighbours."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last
