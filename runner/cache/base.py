"""The contracts of a layer's storage.

A model's `make_memory()` decides the kinds, one storage per layer; a slot owns them for one request after the
other; nobody asks a storage what it is. Slots know `Storage`; an attention layer knows its storage as `KeyValues`;
latent and recurrent layers have one kind each, in `latent.py` and `recurrent.py`. Invariants of every storage:

1. `offset` is the number of positions written since position 0. It moves when the graph is built, before
   anything is computed: if MLX fails, offsets lie, and all storages of that memory must be dropped.
2. All storages of one memory are level between forwards: the same offset everywhere.
3. `attend` (`write`, `replace`) is the only way in, and nobody but the storage sees its buffers. What a query may
   look at, and the mask that says so, is the storage's to know.
4. `rewind(to)` forgets [to, offset) exactly: a forward after it gives the logits of a fresh computation over
   [0, to). A storage that cannot do that answers False and is unchanged (a wrapped ring, a recurrent state).
5. `restorable(to)` foretells it: `rewind(restorable(to))` answers True, and no position between would.
   Position 0 is always restorable, and so is `offset`.
6. `reserve(total)`, `checkpoint()` and `keep(...)` never change a result. A checkpoint lasts until `keep` leaves
   it out or a rewind goes to a position before it.
7. A storage is moved, never copied: one owner at a time.
8. A fresh storage behind `restore(saved, to)` is what the saved one would be behind `rewind(to)`: the same results,
   checkpoints before `to` included.

B rows, H query heads, K key/value heads, L new positions, S kept positions, D head width.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import mlx.core as mx

from runner.cache.lanes import Lane, LayerLanes
from runner.cache.need import Need
from runner.cache.saved import Saved
from runner.cache.span import Span
from runner.kernels.attention import Mask
from runner.kernels.rows_attention import Own


class Storage(Protocol):
    """What a layer remembers of one sequence, as a slot sees it."""

    @property
    def offset(self) -> int:
        """Positions written so far; the position of the next token."""

    @property
    def nbytes(self) -> int:
        """Bytes held in buffers, reserved room included."""

    @property
    def kept_bytes(self) -> int:
        """Of these, what checkpoints hold."""

    @property
    def leeway(self) -> int | None:
        """How many positions before a checkpoint it goes back to as well; None: anywhere, without checkpoints."""

    def rewind(self, to: int) -> bool:
        """Forget everything from position `to` on; False, and no change, if that is impossible."""

    def restorable(self, to: int) -> int:
        """The largest position in [0, to] that `rewind` would go to now."""

    def checkpoint(self) -> list[mx.array]:
        """Stay able to go back to `offset`, or to where the row's lane begins; what is to be computed for that."""

    def keep(self, checkpoints: Iterable[int]) -> None:
        """Of all checkpoints only these are wanted still, in ascending order."""

    def reserve(self, total: int) -> None:
        """Expect positions up to `total`, so that buffers need not grow one step at a time."""

    def arrays(self) -> list[mx.array]:
        """The buffers that hold state now, for evaluation."""

    def need(self) -> Need:
        """What it will take, once it was written to."""

    def save(self) -> dict[str, mx.array] | None:
        """All that it remembers, as `saved.py` has it; None for what cannot be written down. These are views: they
        go before the next write, or it would copy.
        """

    def restore(self, saved: Saved, to: int) -> None:
        """Of a fresh storage: remember what was saved up to `to`, which was restorable then. Raises ValueError or
        KeyError for what no storage of this kind saved; then it must be dropped.
        """


class Attending(Protocol):
    """What an attention layer sees of its storage, or of several rows' storages."""

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        span: Span,
        *,
        scale: float,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Remember the span's keys and values [B,K,L,D]; what its queries [B,H,L,D] find: [B,H,L,D].

        scale: of the scores. sinks [H]: for each head the logit of looking at nothing.
        """

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        """The same behind an `attend` of this span, for another layer's queries; nothing is remembered."""


class KeyValues(Storage, Attending, Protocol):
    """The keys and values of an attention layer. While its row decodes in company, new positions stand in lanes."""

    @property
    def window(self) -> int | None:
        """How far back a query sees, itself included; None: to the beginning."""

    def quantize(self, bits: int) -> None:
        """Of a fresh storage: keep a number in so many bits, 8 or 4, if heads consist of whole groups."""

    @property
    def is_quantized(self) -> bool:
        """Whether it keeps numbers so, once it was written to. Then nothing of it stands in lanes."""

    def own(self) -> Own:
        """The buffers of what does not stand in a lane."""

    def lend(self, lane: Lane, lanes: LayerLanes) -> None:
        """From now on new positions stand in this lane, and only the lane knows how many."""

    def settle(self) -> None:
        """Take the lane's positions into the buffers, and leave the lane; nothing if there is none."""


class Borrowed(Protocol):
    """What a model of mlx-lm's sees of its storage; `BorrowedCaches` says more."""

    @property
    def native(self) -> list[Any]: ...

    def expect(self, length: int) -> None: ...


class LayerMemory(Protocol):
    """What layers see of one row, or of several: storages by kind and number of layer. `borrowed` is one of all
    layers of a model of mlx-lm's.
    """

    @property
    def attention(self) -> Mapping[int, Attending]: ...

    @property
    def latent(self) -> Mapping[int, Latents]: ...

    @property
    def recurrent(self) -> Mapping[int, States]: ...

    @property
    def borrowed(self) -> Borrowed | None: ...


class Latents(Protocol):
    """What a layer of latent attention sees of its storage; `LatentCache` says more."""

    @property
    def offset(self) -> int: ...

    def write(self, new: mx.array) -> None: ...

    def look(self, queries: mx.array, span: Span, *, scale: float) -> mx.array: ...

    def kept(self) -> mx.array: ...

    def mask(self, span: Span) -> Mask: ...


class States(Protocol):
    """What a recurrent layer sees of its storage; `RecurrentCache` says more."""

    @property
    def state(self) -> tuple[mx.array, ...] | None: ...

    def replace(self, state: tuple[mx.array, ...], length: int) -> None: ...
