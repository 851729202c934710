"""The types that a host names for its KV cache, and memories that keep keys and values so.

    f16     as the model computes them, whatever type that is
    q8_0    8 bits a number, and a scale and a bias for 32
    q4_0    4 bits

Knows nothing about files or requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import mlx.core as mx

from runner.cache.memory import Memory
from runner.models.base import Model
from runner.types import AS_COMPUTED, KVType

log = logging.getLogger(__name__)

BITS: dict[KVType, int] = {"q8_0": 8, "q4_0": 4}


def memories(model: Model, asked: KVType) -> tuple[KVType, Callable[[], Memory]]:
    """The type of the model's memories, AS_COMPUTED where no layer can have another, and what makes one."""
    if asked == AS_COMPUTED:
        return asked, model.make_memory

    def quantized() -> Memory:
        memory = model.make_memory()
        memory.quantize(BITS[asked])
        return memory

    layers = _layers(model, quantized())
    count = sum(layers)
    said = {"type": asked, "layers": count, "others": len(layers) - count}
    if not count:
        log.warning("KV cache stays as computed: no layer can be quantized", extra=said)
        return AS_COMPUTED, model.make_memory
    log.info("KV cache quantized", extra=said)
    return asked, quantized


def _layers(model: Model, memory: Memory) -> list[bool]:
    """Of each storage whether it is quantized, once something was written to it; nothing is computed."""
    model(mx.array([[0, 0]]), memory.span(2), memory)
    states = [False] * (len(memory.storages) - len(memory.attention))
    return [*(storage.is_quantized for storage in memory.attention.values()), *states]
