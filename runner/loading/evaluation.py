"""Weights into memory, layer by layer, with little held twice.

Until it is evaluated an array is a recipe: read from the file, convert, join. During evaluation a recipe's sources
are in memory, too, and so are steps in between: up to three times the result's size for 3-bit weights that become
floats. Three things keep that small beside the model:

1. Few bytes are evaluated at once, and what they were made from is given back before the next.
2. What stands outside the layers comes first, the largest ahead, while there is room: an embedding may be a
   third of a model, and is one array.
3. Nobody else may hold the sources: a reference keeps them for good.

Knows nothing about files, architectures or requests.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping

import mlx.core as mx

from runner.machine import memory

log = logging.getLogger(__name__)

Progress = Callable[[float], None]
"""Called with the share of the weights that is in memory, 0.0 ... 1.0."""

EVALUATE_BYTES = 256 * 1024 * 1024  # at once, at most; an array that is larger alone is evaluated alone
EVALUATE_SHARE = 1 / 32  # of all weights, at once, at most
LAYER = re.compile(r"(.*?\blayers)\.(\d+)\.")
LINE_EVERY_S = 2.0


def evaluate(weights: Mapping[str, mx.array], progress: Progress, parts: int = 1) -> None:
    """Evaluate all arrays, which were cut from so many times as much. Raises RuntimeError if one cannot be read."""
    total = sum(array.nbytes for array in weights.values())
    limit = min(EVALUATE_BYTES, int(total * EVALUATE_SHARE)) // parts
    report = _Report()
    done = 0
    for layer, arrays in _by_layer(weights).items():
        before = done
        for group in _groups(arrays, limit):
            mx.eval(group)
            memory.release_buffers()
            done += sum(array.nbytes for array in group)
            progress(done / total)
        log.debug("Layer loaded", extra={"layer": layer, "bytes": done - before})
        report.reached(done / total)


class _Report:
    """A line for each tenth of a long load, none for a short one."""

    def __init__(self) -> None:
        self._started = self._said = time.perf_counter()
        self._tenths = 0

    def reached(self, share: float) -> None:
        now, tenths = time.perf_counter(), int(10 * share)
        if self._tenths < tenths < 10 and now - self._said >= LINE_EVERY_S:
            self._tenths, self._said = tenths, now
            log.info(
                "Loading weights", extra={"percent": int(100 * share), "took": f"{now - self._started:.1f}s"}
            )


def _by_layer(weights: Mapping[str, mx.array]) -> dict[str, list[mx.array]]:
    """Arrays by the path of their layer in its order; first, under "none", all others, the largest ahead."""
    layers: dict[tuple[str, int], list[mx.array]] = {}
    others = []
    for name, array in weights.items():
        if match := LAYER.match(name):
            layers.setdefault((match[1], int(match[2])), []).append(array)
        else:
            others.append(array)
    others.sort(key=lambda array: -array.nbytes)
    return {"none": others} | {f"{path}.{number}": layers[path, number] for path, number in sorted(layers)}


def _groups(arrays: list[mx.array], limit: int) -> Iterator[list[mx.array]]:
    """Runs of at most `limit` bytes, or of one array."""
    group: list[mx.array] = []
    size = 0
    for array in arrays:
        if group and size + array.nbytes > limit:
            yield group
            group, size = [], 0
        group.append(array)
        size += array.nbytes
    if group:
        yield group
