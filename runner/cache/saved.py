"""What was saved of a storage: arrays by names, each of which says where in the sequence it belongs.

    keys.0  keys.4096  values.0  ...      rows [B,K,R,D] from this position on
    state.512.0                           the first array of the state behind this position

Rows are cut into blocks, so that who writes them holds few at a time, and who needs a beginning reads no more.

Knows nothing about files, tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx

BLOCK = 4096  # rows

Saved = Mapping[str, mx.array]
"""May read an array when it is asked for, each time."""


class Part(Saved):
    """Of arrays those whose names begin alike, without that."""

    def __init__(self, whole: Saved, names: Mapping[str, str]) -> None:
        """names: what an array is called here, and what there."""
        self._whole = whole
        self._names = names

    def __getitem__(self, name: str) -> mx.array:
        return self._whole[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def parts(saved: Saved) -> dict[str, Part]:
    """What stands behind the first two parts of the names, by those."""
    names: dict[str, dict[str, str]] = {}
    for name in saved:
        kind, layer, rest = name.split(".", 2)
        names.setdefault(f"{kind}.{layer}", {})[rest] = name
    return {place: Part(saved, own) for place, own in names.items()}


def cut(name: str, rows: mx.array, start: int) -> dict[str, mx.array]:
    """Rows [B,H,R,D] from a position on, as views."""
    return {
        f"{name}.{start + first}": rows[..., first : first + BLOCK, :]
        for first in range(0, rows.shape[2], BLOCK)
    }


def starts(saved: Saved, name: str) -> list[int]:
    """Where the blocks of this name begin, in order."""
    return sorted(int(one.split(".")[1]) for one in saved if one.split(".")[0] == name)


def blocks(saved: Saved, names: Sequence[str], end: int) -> Iterator[tuple[int, list[mx.array]]]:
    """Blocks up to a position, in order: where each begins, and its rows under each of the names. Raises ValueError
    where one is missing.
    """
    after: int | None = None
    for start in starts(saved, names[0]):
        if start >= end:
            break
        if after is not None and start != after:
            raise ValueError(f"{names[0]} has no rows from {after} to {start}")
        arrays = [saved[f"{name}.{start}"] for name in names]
        after = start + arrays[0].shape[2]
        yield start, [array[..., : end - start, :] for array in arrays]
    if after is None or after < end:
        raise ValueError(f"{names[0]} has no rows up to {end}")
