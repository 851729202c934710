"""Processes that come one after another and keep what their slots held in the same folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runner.cache.slots import Slots
from runner.disk.disk_cache import DiskCache
from runner.disk.entry import forms
from runner.disk.folder import open_folder
from runner.disk.identity import probe
from runner.generation.alone import complete
from runner.loading.loaded_model import LoadedModel
from runner.types import Done, Usage
from tests.parts.fakes import request

IDENTITY = "0123456789abcdef" * 4
LIMIT = 2**30
DEADLINE_S = 60.0


class Process:
    """A fresh slot, or several, and the entries that there are."""

    def __init__(
        self,
        loaded: LoadedModel,
        folder: Path,
        *,
        identity: str = IDENTITY,
        limit: int = LIMIT,
        notable: int = 1,
        slots: int = 1,
    ) -> None:
        self.slots = Slots(loaded.model.make_memory, slots, bound=loaded.slots.bound)
        self.loaded = replace(loaded, slots=self.slots)
        saved = probe(loaded.model, loaded.slots.fresh_memory()).save()
        assert saved is not None
        self.disk = DiskCache(open_folder(folder, limit), self.slots, identity, forms(saved), notable=notable)

    def ask(self, prompt: str, tokens: int = 3) -> Usage:
        """What a request says at its end."""
        end = complete(self.loaded, request(prompt, max_tokens=tokens), restore=self.disk.restore)[-1]
        assert isinstance(end, Done)
        return end.usage

    def save(self) -> None:
        """All that is worth it."""
        self.disk.finish(DEADLINE_S)


def entries(folder: Path) -> list[Path]:
    """The files in a folder, drafts included."""
    return sorted(folder.iterdir())
