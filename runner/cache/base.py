"""The contract of a layer's cache.

A model's `make_caches()` decides the kinds, one cache per layer; a session owns them for one request; nobody
asks a cache what it is. Invariants that every storage keeps:

1. `offset` is the number of positions written since position 0. It moves when the graph is built, before
   anything is computed: if MLX fails, offsets lie, and the whole entry must be dropped.
2. All layers of one model are level between forwards: the same offset everywhere.
3. `update` is the only way in. Whoever calls it uses what it returns, never the buffers.
4. `rewind(to)` forgets [to, offset) exactly: a forward after it gives the logits of a fresh computation over
   [0, to). A storage that cannot do that answers False and is unchanged (a wrapped ring, a recurrent state).
5. `reserve(total)` is a hint that positions up to `total` will come. It never changes a result.
6. A cache is moved, never copied: one owner at a time.

B batch, H key/value heads, L new positions, S kept positions, D head width.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

Mask = mx.array | str | None
"""What `mx.fast.scaled_dot_product_attention` takes: "causal", an array, or None for no mask."""


class LayerCache(Protocol):
    """Keys and values (or whatever else a layer remembers) of one sequence."""

    @property
    def offset(self) -> int:
        """Positions written so far; the position of the next token."""

    @property
    def nbytes(self) -> int:
        """Bytes held in buffers, reserved room included."""

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append [B,H,L,D]; return all that attention may look at, [B,H,S,D], oldest first."""

    def mask(self, length: int) -> Mask:
        """The mask for a forward over the next `length` positions; ask before `update`."""

    def rewind(self, to: int) -> bool:
        """Forget everything from position `to` on; False, and no change, if that is impossible."""

    def reserve(self, total: int) -> None:
        """Expect positions up to `total`, so that buffers need not grow one step at a time."""

    def arrays(self) -> list[mx.array]:
        """The buffers that hold state now, for evaluation."""
