"""The folder of entries: private, bounded, and shared by processes.

    0123456789abcdef-fedcba9876543210.safetensors          an entry; the first half says of what model
    0123456789abcdef-fedcba9876543210.safetensors.draft    one that is being written, locked by who writes

An entry has its name only when it is whole and on the disk. A draft that nobody locks was left by a process that
was killed. Of entries only their folder knows when they were used last: that is the time of the file. What has
another name is not ours, and nobody touches it.

Knows nothing about what an entry says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import zlib
from array import array
from pathlib import Path
from typing import NamedTuple

from runner.errors import BadCacheFolder, explain

ENTRY = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.safetensors")
DRAFT = ".draft"
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


class File(NamedTuple):
    """An entry's name, its bytes, and when it was used last."""

    name: str
    size: int
    used_ns: int


class Folder:
    """What `open_folder` found good. limit: bytes of all entries together."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit

    def files(self) -> list[File]:
        """All entries, those used longest ago first."""
        found = []
        with os.scandir(self.path) as inside:
            for one in inside:
                with contextlib.suppress(FileNotFoundError):  # another process took it away
                    if ENTRY.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                        status = one.stat(follow_symlinks=False)
                        found.append(File(one.name, status.st_size, status.st_mtime_ns))
        return sorted(found, key=lambda file: (file.used_ns, file.name))

    def used(self, name: str) -> None:
        """The entry was used now."""
        with contextlib.suppress(OSError):  # it stays older than it is
            os.utime(self.path / name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # it is gone, or stays
            (self.path / name).unlink()

    def make_room(self, size: int) -> None:
        """Remove what was used longest ago until so many bytes fit. Raises OSError if they never will."""
        if size > self.limit:
            raise OSError(f"an entry of {size} bytes, limit {self.limit}")
        files = self.files()
        total = sum(file.size for file in files)
        for file in files:
            if total + size <= self.limit:
                break
            self.remove(file.name)
            total -= file.size

    def sweep(self) -> None:
        """Remove the drafts that processes left when they were killed."""
        for path in self.path.glob(f"*{DRAFT}"):
            if ENTRY.fullmatch(path.name.removesuffix(DRAFT)):
                with contextlib.suppress(OSError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


class Draft:
    """An entry on its way into the folder. Every method but `name` raises OSError, and may wait for the disk."""

    def __init__(self, folder: Folder, model: str) -> None:
        """model: 16 hexadecimal digits."""
        self.name = f"{model}-{secrets.token_hex(8)}.safetensors"
        self._folder = folder
        self._path = folder.path / f"{self.name}{DRAFT}"
        self._descriptor = -1
        self._checksums = array("I")

    def begin(self, header: bytes, size: int) -> None:
        """size: of the whole file."""
        self._folder.make_room(size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, PRIVATE_FILE)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if not os.fstat(self._descriptor).st_nlink:
            raise OSError("another process took the draft for one that was left")
        self.write(header)

    def write(self, data: bytes) -> None:
        """What has a checksum of its own."""
        self._checksums.append(zlib.crc32(data))
        self._write(data)

    def commit(self) -> None:
        """It is whole: on the disk first, then under its name."""
        self._write(self._checksums.tobytes())
        os.fsync(self._descriptor)
        os.rename(self._path, self._folder.path / self.name)
        self._close()
        folder = os.open(self._folder.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Nothing is left of it."""
        if self._descriptor >= 0:
            self._close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def open_folder(path: Path, limit: int) -> Folder:
    """Make it if it is not there. Raises BadCacheFolder if others may look into it, or we may not write there."""
    try:
        path = path.expanduser()
        path.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        reason = _refusal(path)
    except (OSError, ValueError, RuntimeError) as error:
        reason = explain(error)
    if reason:
        raise BadCacheFolder(f"the cache folder {path}: {reason}")
    return Folder(path, limit)


def _refusal(path: Path) -> str:
    """Why a folder is none for us; "" if it is."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        return "it belongs to another user; name one of your own"
    if mode & 0o077:
        return f"others may look into it (mode {mode:o}); chmod 700 it, or name one that is not there yet"
    return "" if os.access(path, os.R_OK | os.W_OK | os.X_OK) else "it cannot be written to"
