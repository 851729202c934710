"""Faults on demand in a runner: with this folder on its PYTHONPATH, Python imports this before anything else.

A prompt says what shall happen to it, once, or with INJECT_AGAIN=1 each time that it is fed:

    [[prefill 2: error]]     behind its second chunk, as MLX says that an operation failed
    [[decode 2: device]]     behind its second forward of a single token, as MLX says that the GPU failed
    [[decode 5: memory]]     behind its fifth forward of a single token, as MLX says that memory is short
    [[decode 1: death]]      what no handler of exceptions catches: the MLX thread ends
    [[decode 3: hold PATH]]  the step waits: it opens the FIFO there for reading, until the writer has closed it

A step is hit when its graph is built, so all layers have moved and nothing is drawn yet. In company it is the step
of all. The runner's code knows nothing of this.

A process that follows sees no prompt. INJECT_RANK=1:drawn:5 says that rank 1 waits for ever when it is told for the
fifth time that tokens were drawn; the names are those of the methods of `Follower`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

WISH = re.compile(r"\[\[(prefill|decode) (\d+): (error|device|memory|death|hold) ?([^\]]*)\]\]")
MESSAGES = {
    "error": "[Event::wait] An operation failed: injected",
    "device": "[METAL] Command buffer execution failed: injected",
    "memory": "[malloc] Unable to allocate 99 bytes, injected",
}
AGAIN = os.environ.get("INJECT_AGAIN") == "1"


class Death(BaseException):
    """As a panic of a library is: no Exception."""


@dataclass
class Fault:
    """What one request wished for."""

    where: str
    left: int
    what: str
    path: str

    def hit(self, where: str) -> None:
        if where != self.where:
            return
        self.left -= 1
        if self.left > 0 or (self.left < 0 and not AGAIN):
            return
        if self.what == "hold":
            with open(self.path, "rb") as gate:
                gate.read()
        elif self.what == "death":
            raise Death("injected")
        else:
            raise RuntimeError(MESSAGES[self.what])


class After(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Changes a module when it was imported."""

    def __init__(self, module: str, change: Callable[[Any], None]) -> None:
        self._module = module
        self._change = change

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        self._inner: Any = spec.loader
        spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        self._change(module)


def inject(module: Any) -> None:
    faults: dict[int, Fault] = {}
    admit, forward, feed = module.Engine.admit, module.Stepper.forward, module.Stepper.feed

    def admitting(engine: Any, request: Any, *rest: Any) -> Any:
        admitted = admit(engine, request, *rest)
        if admitted:
            slot = engine._scheduler.rows[-1].slot
            faults.pop(slot, None)
            if wish := WISH.search(request.prompt):
                faults[slot] = Fault(wish[1], int(wish[2]), wish[3], wish[4])
        return admitted

    def hit(plan: Any, where: str) -> None:
        for row in plan.rows:
            if row.slot in faults and row.logits == (where == "decode"):
                faults[row.slot].hit(where)

    def forwarding(stepper: Any, plan: Any) -> Any:
        logits = forward(stepper, plan)
        hit(plan, "decode")
        return logits

    def feeding(stepper: Any, plan: Any) -> Any:
        has_fed = feed(stepper, plan)
        hit(plan, "prefill")
        return has_fed

    module.Engine.admit, module.Stepper.forward, module.Stepper.feed = admitting, forwarding, feeding


def hang(module: Any) -> None:
    rank, told, number = os.environ["INJECT_RANK"].split(":")
    if os.environ["MLX_RANK"] != rank:
        return
    method = getattr(module.Follower, f"_on_{told}")
    left = int(number)

    def hanging(follower: Any, *values: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            threading.Event().wait()
        method(follower, *values)

    setattr(module.Follower, f"_on_{told}", hanging)


sys.meta_path.insert(0, After("runner.generation.engine", inject))
if "INJECT_RANK" in os.environ:
    sys.meta_path.insert(0, After("runner.ranks.follower", hang))
