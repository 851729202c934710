"""Arrays cut along one of their dimensions. All of it is recipes: nothing is evaluated here.

A piece is where something that is ours begins and ends there.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import mlx.core as mx

from runner.errors import UnsupportedModel
from runner.layers.shards import Cut, Unit
from runner.sharding.shares import Share

Piece = tuple[int, int]


def cut(array: mx.array, axis: int, wanted: Iterable[Piece]) -> mx.array:
    """These pieces of an array's dimension, behind each other. A copy, or a part would hold the whole."""
    found = [_slice(array, axis, *piece) for piece in _joined(wanted)]
    return mx.contiguous(found[0] if len(found) == 1 else mx.concatenate(found, axis=axis))


def pieces(one: Cut, length: int, share_of: Mapping[Unit, Share]) -> Iterator[Piece]:
    """What is ours of a dimension of so many entries. Raises UnsupportedModel where that ends inside an entry."""
    if one.by_key_heads:
        yield from _by_key_heads(one.parts, share_of[Unit.KEY_HEADS], share_of[Unit.HEADS])
        return
    start = 0
    for part, unit in one.parts or ((length, one.unit),):
        yield from of_share(part, share_of[unit], start)
        start += part


def of_share(length: int, share: Share, start: int = 0) -> Iterator[Piece]:
    """Our units of so many entries, the first of which is the array's entry `start`. Raises UnsupportedModel."""
    for first, last in _runs(share.ours):
        ends = first * length, (last + 1) * length
        if any(end % share.total for end in ends):
            raise UnsupportedModel(
                f"a dimension of {length} entries cannot be divided by {share.total}: a model quantized in larger "
                "groups than its heads have numbers, perhaps"
            )
        yield start + ends[0] // share.total, start + ends[1] // share.total


def _by_key_heads(parts: Sequence[tuple[int, Unit]], keys: Share, heads: Share) -> Iterator[Piece]:
    """Of each of our heads of keys, as often as it is ours, the parts, with those of the heads that it serves
    here.
    """
    serves, serves_here = heads.total // keys.total, len(heads.ours) // len(keys.ours)
    size = sum(length for length, _ in parts)
    for number, key in enumerate(keys.ours):
        first = heads.ours[number * serves_here] - key * serves
        served, start = Share(serves, range(first, first + serves_here)), key * size
        for length, unit in parts:
            yield from of_share(length, served, start) if unit is Unit.HEADS else [(start, start + length)]
            start += length


def _slice(array: mx.array, axis: int, start: int, end: int) -> mx.array:
    return array[(*[slice(None)] * (axis % array.ndim), slice(start, end))]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of neighbours."""
    for start, end in _joined((number, number + 1) for number in numbers):
        yield start, end - 1


def _joined(found: Iterable[Piece]) -> Iterator[Piece]:
    """The same with neighbours as one."""
    start = end = -1
    for piece in found:
        if piece[0] == end:
            end = piece[1]
            continue
        if end >= 0:
            yield start, end
        start, end = piece
    yield start, end
