"""The contract of a layer's storage.

A model's `make_caches()` decides the kinds, one storage per layer; a session owns them for one request; nobody
asks a storage what it is. Sessions know `Storage`; an attention layer knows a `LayerCache`, of keys and values; a
recurrent layer knows a `StateCache`. Invariants that every storage keeps:

1. `offset` is the number of positions written since position 0. It moves when the graph is built, before
   anything is computed: if MLX fails, offsets lie, and the whole entry must be dropped.
2. All layers of one model are level between forwards: the same offset everywhere.
3. `update` (or `replace`) is the only way in. Whoever calls `update` uses what it returns, never the buffers.
4. `rewind(to)` forgets [to, offset) exactly: a forward after it gives the logits of a fresh computation over
   [0, to). A storage that cannot do that answers False and is unchanged (a wrapped ring, a recurrent state).
5. `restorable(to)` foretells it: `rewind(restorable(to))` answers True, and no position between would.
   Position 0 is always restorable, and so is `offset`.
6. `reserve(total)` and `checkpoint()` are hints. They never change a result.
7. A storage is moved, never copied: one owner at a time.

B batch, H key/value heads, L new positions, S kept positions, D head width.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

Mask = mx.array | str | None
"""What `mx.fast.scaled_dot_product_attention` takes: "causal", an array, or None for no mask."""

State = tuple[mx.array, ...]
"""All that a recurrent layer remembers. Arrays do not change, so holding one is keeping it."""

Caches = Sequence[Any]
"""One storage per layer, as the model's own `make_caches()` made them, each of the kind that its layer needs."""


class Storage(Protocol):
    """What a layer remembers of one sequence, as a session sees it."""

    @property
    def offset(self) -> int:
        """Positions written so far; the position of the next token."""

    @property
    def nbytes(self) -> int:
        """Bytes held in buffers, reserved room included."""

    @property
    def checkpointed(self) -> bool:
        """Whether going back means going to a checkpoint: whoever feeds it should then set some."""

    def rewind(self, to: int) -> bool:
        """Forget everything from position `to` on; False, and no change, if that is impossible."""

    def restorable(self, to: int) -> int:
        """The largest position in [0, to] that `rewind` would go to now."""

    def checkpoint(self) -> None:
        """Expect to be rewound to `offset` later; the oldest checkpoints give way."""

    def reserve(self, total: int) -> None:
        """Expect positions up to `total`, so that buffers need not grow one step at a time."""

    def arrays(self) -> list[mx.array]:
        """The buffers that hold state now, for evaluation."""


class LayerCache(Storage, Protocol):
    """The keys and values of an attention layer."""

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append [B,H,L,D]; return all that attention may look at, [B,H,S,D], oldest first."""

    def mask(self, length: int) -> Mask:
        """The mask for a forward over the next `length` positions; ask before `update`."""


class StateCache(Storage, Protocol):
    """The state of a recurrent layer."""

    @property
    def state(self) -> State | None:
        """The state behind position `offset`; None at position 0, where nothing was read yet."""

    def replace(self, state: State, length: int) -> None:
        """The state that the next `length` positions lead to."""

    def mask(self, length: int) -> Mask:
        """None: a recurrence looks at no keys. (A decoder asks all its layers alike.)"""
