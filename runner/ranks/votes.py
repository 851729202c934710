"""What processes agree on. All of a group ask at the same place.

Belongs to the thread that computes.
"""

from __future__ import annotations

import mlx.core as mx

from runner.sharding.group import Group


def agreed(group: Group, said: bool) -> bool:
    """What rank 0 said."""
    return bool(group.sum(mx.array([said and group.rank == 0], mx.int32)).item())


def all_say(group: Group, said: bool) -> bool:
    """Whether each says so."""
    return bool(group.sum(mx.array([said], mx.int32)).item() == group.size)
