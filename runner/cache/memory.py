"""What a model remembers of one sequence: all its layers' storages together.

A layer finds its storage under its own number. Who feeds the model asks for the next span here and never sees a
storage: what one can do, all do together.

Knows nothing about tokens or requests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import mlx.core as mx

from runner.cache.base import KeyValues, Storage
from runner.cache.borrowed import BorrowedCaches
from runner.cache.lanes import Lane, LayerLanes
from runner.cache.latent import LatentCache
from runner.cache.need import Need
from runner.cache.points import Points
from runner.cache.recurrent import RecurrentCache
from runner.cache.saved import Saved, parts
from runner.cache.span import Span


class Memory:
    """The storages by kind and number of layer; `borrowed` is one of all layers of a model of mlx-lm's."""

    def __init__(
        self,
        attention: Mapping[int, KeyValues] | None = None,
        latent: Mapping[int, LatentCache] | None = None,
        recurrent: Mapping[int, RecurrentCache] | None = None,
        borrowed: BorrowedCaches | None = None,
    ) -> None:
        self.attention = attention or {}
        self.latent = latent or {}
        self.recurrent = recurrent or {}
        self.borrowed = borrowed
        self.storages: Sequence[Storage] = (
            *self.attention.values(),
            *self.latent.values(),
            *self.recurrent.values(),
            *([] if borrowed is None else [borrowed]),
        )
        # Where it can go back to although a storage cannot go back to everywhere; nothing in other memories.
        self.points = Points()
        self.lane: Lane | None = None  # while the row decodes in company

    @property
    def offset(self) -> int:
        """Positions written so far."""
        return self.storages[0].offset

    def holds_only(self, layers: Collection[int]) -> bool:
        """Whether these layers' attention is all that it has storages for."""
        return len(self.storages) == len(layers)

    def attends_only(self, layers: Collection[int]) -> bool:
        """Whether these layers' attention is all that it looks back with, beside recurrent states."""
        return 0 < len(layers) == len(self.storages) - len(self.recurrent)

    @property
    def is_level(self) -> bool:
        """Whether all storages hold the same positions; between forwards they do, unless one failed midway."""
        return all(storage.offset == self.offset for storage in self.storages)

    @property
    def nbytes(self) -> int:
        """Bytes held in buffers, reserved room included."""
        return sum(storage.nbytes for storage in self.storages)

    @property
    def kept_bytes(self) -> int:
        """Of these, what checkpoints hold."""
        return sum(storage.kept_bytes for storage in self.storages)

    @property
    def leeway(self) -> int | None:
        """How many positions before a checkpoint it goes back to as well; None: anywhere, without checkpoints."""
        leeways = [storage.leeway for storage in self.storages if storage.leeway is not None]
        return min(leeways, default=None)

    def quantize(self, bits: int) -> None:
        """Of a fresh memory: keep keys and values in so many bits, where their heads allow it. A latent stays as it
        is: it is small, and keys and values of all heads come from it. So does a recurrent state, whose errors
        would add up with each position.
        """
        for storage in self.attention.values():
            storage.quantize(bits)

    def span(self, length: int) -> Span:
        """The next `length` positions, without company."""
        self.settle()
        return Span(self.offset, length)

    def lend(self, lane: Lane, lanes: Mapping[int, LayerLanes]) -> None:
        """The row joins others: new positions of the layers that have lanes stand there."""
        self.lane = lane
        for layer, layer_lanes in lanes.items():
            self.attention[layer].lend(lane, layer_lanes)

    def settle(self) -> None:
        """The row leaves the others: all that it holds stands in its own buffers."""
        fresh = [array for storage in self.recurrent.values() for array in storage.settle()]
        if self.lane is not None:
            self.lane = None
            for storage in self.attention.values():
                storage.settle()
            fresh += self.arrays()
        if fresh:
            # Until it is computed, the old lanes and states of all rows are held.
            mx.async_eval(fresh)  # type: ignore[no-untyped-call]  # the stub has no types

    def rewind(self, to: int) -> bool:
        """Forget everything from position `to` on; False if a storage cannot, and then they may not be level."""
        self.settle()
        self.points.cut(to)
        return all(storage.rewind(to) for storage in self.storages)

    def restorable(self, to: int) -> int:
        """The largest position in [0, to] that all storages can be rewound to."""
        while True:
            lowest = min(storage.restorable(to) for storage in self.storages)
            if lowest == to:
                return to
            to = lowest  # where one storage can go another may not

    def checkpoint(self, *, marked: bool = True) -> None:
        """Stay able to go back to `offset`, as long as there is room. marked: a later request is likely to."""
        if self.leeway is None or not self.points.add(self.offset, marked=marked):
            return
        fresh = [array for storage in self.storages for array in storage.checkpoint()]
        # With what is under way: until a copy is computed, the buffer that it is made from cannot be written to.
        mx.async_eval(fresh)  # type: ignore[no-untyped-call]  # the stub has no types
        while self.points.are_too_many(self.kept_bytes, self.nbytes):
            self.points.drop()
            for storage in self.storages:
                storage.keep(self.points.positions)

    def reserve(self, total: int) -> None:
        """Expect positions up to `total`."""
        for storage in self.storages:
            storage.reserve(total)

    def arrays(self) -> list[mx.array]:
        """The buffers that hold state now, for evaluation."""
        return [array for storage in self.storages for array in storage.arrays()]

    def needs(self) -> tuple[Need, ...]:
        """What the storages will take, once they were written to, and the share of it that checkpoints may hold."""
        share = 0.0 if self.leeway is None else self.points.bound.share
        return tuple(storage.need().and_more(share) for storage in self.storages)

    def save(self) -> dict[str, mx.array] | None:
        """What all storages save, each name behind the kind and number of the layer; None if one does not."""
        saved: dict[str, mx.array] = {}
        for storage, place in zip(self.storages, self._places(), strict=True):
            arrays = storage.save()
            if arrays is None:
                return None
            saved |= {f"{place}.{name}": array for name, array in arrays.items()}
        return saved

    def restore(self, saved: Saved, points: Collection[int], to: int) -> None:
        """Fill this memory, which must be fresh, with what another one saved, up to position `to`. The other one
        could go back to that position. points: its checkpoints. Raises ValueError or KeyError if no memory of this
        kind saved this; the caller then drops the memory, which may be half full.
        """
        places = parts(saved)
        for storage, place in zip(self.storages, self._places(), strict=True):
            storage.restore(places[place], to)
            mx.eval(storage.arrays())  # or what was read would be held until all is
        self.points.set([point for point in points if point <= to])

    def _places(self) -> list[str]:
        """The kinds and numbers of the layers, in the order of the storages."""
        kinds = {"attention": self.attention, "latent": self.latent, "recurrent": self.recurrent}
        places = [f"{kind}.{layer}" for kind, layers in kinds.items() for layer in layers]
        return places if self.borrowed is None else [*places, "borrowed"]
