"""The disk cache of a model that was loaded.

Belongs to the MLX thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from runner.cache.slots import Slots
from runner.disk.disk_cache import DiskCache
from runner.disk.entry import forms
from runner.disk.folder import Folder
from runner.disk.identity import identity, probe
from runner.models.base import Model
from runner.store.files import ModelFiles

log = logging.getLogger(__name__)


def open_disk_cache(
    folder: Folder, files: ModelFiles, model: Model, slots: Slots, device: str, wake: Callable[[], None]
) -> DiskCache | None:
    """What earlier processes left for this model, and what this one will leave; None if it cannot. wake: see
    `DiskCache`.
    """
    saved = probe(model, slots.fresh_memory()).save()
    if saved is None:
        log.warning("No cache on the disk for a model of mlx-lm's", extra={"model": files.name})
        return None
    expected = forms(saved)
    return DiskCache(folder, slots, identity(files, device, expected), expected, wake)
