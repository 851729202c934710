"""Entries of the cache on the disk: damaged ones, and forged ones whose checksums are right."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

from benchmark.samples import Trouble

from reliability import changes
from reliability.kinds import Kind, completion, loaded
from reliability.process import Process, spawned
from reliability.replies import Wrong

PROMPT = "a prompt that is long enough to be worth a file on the disk: " * 4
CHECKSUM_BYTES = 4


class Entries(Kind):
    """Each input lies in the folder when the model is loaded, and the next request has its prompt.

    An entry that is damaged must never change an answer. A forged one may, as whoever can write into the folder can
    write anything there, but must do nothing worse.
    """

    name = "cache"
    share = 2.0
    FORGED = b"F"  # the first byte of an input says what it is
    DAMAGED = b"D"

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model)
        self.entries = folder / "entries"
        self.entries.mkdir(mode=0o700)
        with spawned(str(model), folder / "first.log", self.arguments) as process:
            self.answer: str = completion(process, PROMPT)["text"]
            process.stop()
        files = list(self.entries.glob("*.safetensors"))
        if len(files) != 1:
            raise Trouble(f"the runner left {len(files)} entries in its cache folder, expected 1")
        self.path = files[0]
        self.original = self.path.read_bytes()

    @property
    def arguments(self) -> Sequence[str]:
        return ("--cache-dir", str(self.entries))

    def make(self, chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            return self.DAMAGED + changes.damaged(chance, self.original)
        length = int.from_bytes(self.original[:8], "little")
        text = changes.json_bytes(chance, json.loads(self.original[8 : 8 + length]))
        head = len(text).to_bytes(8, "little") + text
        rest = self.original[8 + length :]
        sums = len(rest) - self._checksums(length)
        return self.FORGED + head + rest[:sums] + _checksum(head) + rest[sums + CHECKSUM_BYTES :]

    def give(self, process: Process, data: bytes) -> str:
        process.ask("DELETE", "/v1/cache")  # else a load would first save what the last input's answer left
        for path in self.entries.iterdir():
            path.unlink()
        is_forged, made = data[:1] == self.FORGED, data[1:]
        self.path.write_bytes(made)
        if not loaded(process, str(self.model), self.secrets):
            raise Wrong("an entry of the cache kept the model from being loaded")
        end = completion(process, PROMPT)
        if "Error" in end:
            raise Wrong(f"an entry of the cache made an answer fail: {end['Error']}")
        if end["text"] != self.answer and not is_forged:
            raise Wrong(f"a damaged entry changed the answer to {end['text']!r}")
        what = "forged" if is_forged else "damaged"
        return f"{what}, {'restored' if end['PromptEvalCachedCount'] else 'passed over'}"

    def _checksums(self, length: int) -> int:
        """Bytes of the checksums, which stand last."""
        header = json.loads(self.original[8 : 8 + length])
        begin, end = header["checksums"]["data_offsets"]
        size: int = end - begin
        return size


def _checksum(head: bytes) -> bytes:
    return zlib.crc32(head).to_bytes(CHECKSUM_BYTES, "little")
