"""One kind after another: its inputs, one by one, to a runner, and what became of them.

An input is a function of the seed, its kind and its number. After every CHECK_EVERY inputs, and after each trouble,
the runner must say what it said at first; one that is gone or hangs is replaced by another.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reliability.entries import Entries
from reliability.files import Config, Manifests, TokenizerFile, Weights
from reliability.kinds import Kind, golden, loaded
from reliability.process import Gone, Hangs, Process, spawned
from reliability.replies import BUG, Wrong
from reliability.requests import Bodies, Grammars
from reliability.wire import Wire

KINDS: tuple[type[Kind], ...] = (Bodies, Wire, Grammars, Config, TokenizerFile, Weights, Manifests, Entries)
CHECK_EVERY = 500
SLOW_S = 10.0
TOLD_EVERY_S = 10.0
MOST_TOLD = 20  # findings of a kind that are kept in the report
TOLD = 800  # characters of what was logged, its end


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    inputs: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    crashes: int = 0
    hangs: int = 0
    slow: int = 0
    wrong: int = 0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    seconds: float = 0.0
    findings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.crashes or self.hangs or self.slow or self.wrong)


class Trial:
    """One kind, its runner, and the tally."""

    def __init__(self, kind: Kind, seed: str, keep: Path | None) -> None:
        self.kind = kind
        self.tally = Tally()
        self._seed = seed
        self._keep = keep
        self._runners = ExitStack()
        self._process: Process | None = None
        self._answer = ""
        self._number = 0

    def run(self, numbers: Iterable[int]) -> Tally:
        began = told = time.monotonic()
        try:
            for self._number in numbers:
                self._one()
                if time.monotonic() - told > TOLD_EVERY_S:
                    told = time.monotonic()
                    print(f"{self.kind.name}: {self._told(told - began)}", file=sys.stderr, flush=True)
            self._check()
        finally:
            self._runners.close()
        self.tally.seconds = round(time.monotonic() - began, 1)
        return self.tally

    def _one(self) -> None:
        data = self.kind.make(random.Random(f"{self._seed}/{self.kind.name}/{self._number}"))
        process = self._process or self._begin()
        began = time.perf_counter()
        try:
            outcome = self.kind.give(process, data)
            self.tally.outcomes[outcome] = self.tally.outcomes.get(outcome, 0) + 1
            for line in process.log_since().splitlines():
                if BUG in line:
                    raise Wrong(f"it logged an exception: ... {line[-TOLD:]}")
        except (Wrong, Gone, Hangs) as error:
            self._found(error, data)
        took = time.perf_counter() - began
        self.tally.inputs += 1
        self.tally.slowest_s = max(self.tally.slowest_s, round(took, 3))
        if took > SLOW_S:
            self.tally.slow += 1
            self._note(f"it took {took:.1f} s", data)
        if self.tally.inputs % CHECK_EVERY == 0:
            self._check()

    def _begin(self) -> Process:
        kind = self.kind
        log = kind.folder / "runner.log"
        self._process = self._runners.enter_context(
            spawned(str(kind.model), log, kind.arguments, kind.environment)
        )
        answer = golden(self._process)
        if self._answer not in ("", answer):
            raise Wrong(f"a fresh runner says {answer!r}, the first one said {self._answer!r}")
        self._answer = answer
        kind.begin(self._process)
        return self._process

    def _check(self) -> None:
        """The runner is as it was."""
        if self._process is None:
            return
        try:
            self.tally.peak_bytes = max(self.tally.peak_bytes, self._process.footprint().peak_bytes)
            if not loaded(self._process, str(self.kind.model), ()):
                raise Wrong("the first model is not loaded again")
            if (answer := golden(self._process)) != self._answer:
                raise Wrong(f"it says {answer!r}, at first it said {self._answer!r}")
        except (Wrong, Gone, Hangs, FileNotFoundError) as error:
            self._found(error, b"")

    def _found(self, error: Exception, data: bytes) -> None:
        process = self._process
        assert process is not None
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, Gone) and not process.has_ended:
            time.sleep(0.5)  # its parent is told a moment later
        if process.has_ended:
            self.tally.crashes += 1
            why = f"the runner ended with {process.popen.returncode}: {process.log_since()[-600:]}"
        elif isinstance(error, Hangs):
            self.tally.hangs += 1
        else:
            self.tally.wrong += 1
        self._note(why, data)
        if isinstance(error, Gone | Hangs):
            self._runners.close()
            self._process = None

    def _note(self, why: str, data: bytes) -> None:
        print(f"{self.kind.name} {self._seed}/{self._number}: {why}", file=sys.stderr, flush=True)
        if len(self.tally.findings) < MOST_TOLD:
            self.tally.findings.append({"number": self._number, "why": why[:1000]})
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / f"{self.kind.name}-{self._number}").write_bytes(data)

    def _told(self, seconds: float) -> str:
        tally = self.tally
        return (
            f"{tally.inputs} inputs in {seconds:.0f} s, crashes {tally.crashes}, hangs {tally.hangs}, "
            f"slow {tally.slow}, wrong {tally.wrong}"
        )


def shares(count: int, kinds: Sequence[type[Kind]]) -> dict[type[Kind], int]:
    """How many inputs each kind gets, one at least."""
    whole = sum(kind.share for kind in kinds)
    return {kind: max(1, round(count * kind.share / whole)) for kind in kinds}
