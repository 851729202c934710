"""Linear attention of one position of each of some rows as one CUDA kernel.

Why: of MLX's own operations a step takes some forty a layer, and a fast GPU waits for the dispatch of each.
`delta_source.py` has the source and says how it goes. A step's state is a new one: the one before may be held.

Shapes: see `delta.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.delta import LENGTH_EPS, LinearConfig, Rule, State, Step, Steps, nothing
from runner.kernels.delta_source import APART, BODY, GROUPED, HEADER
from runner.kernels.program import Array, Program

WARP = 32  # threads
MOST_THREADS = 512  # of a block
OF_A_THREAD = 32  # numbers of S, while there are threads to be had
MOST_OF_A_THREAD = 64  # beyond, they are more than its registers hold
WIDEST = 512  # P or Q, for which there is shared memory
MOST_POSITIONS = 8  # W, for which there are registers


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    config: LinearConfig
    is_grouped: bool
    eps: float  # of the norm of answers

    @property
    def threads(self) -> int:
        """Of a block, a row of S at least."""
        size = self.config.key_width * self.config.value_width
        wanted = max(size // OF_A_THREAD, self.config.value_width // 4)
        return min(MOST_THREADS, -(-wanted // WARP) * WARP)


def fits(rule: Rule) -> bool:
    """Whether the kernel is written for such a layer."""
    config = rule.config
    return (
        rule.convolution.dtype == mx.bfloat16
        and config.value_width % 4 == 0
        and config.kernel <= MOST_POSITIONS
        and max(config.key_width, config.value_width) <= WIDEST
        and config.key_width * config.value_width <= MOST_THREADS * MOST_OF_A_THREAD
    )


def cuda(rule: Rule) -> Step:
    config, shape = rule.config, Shape(rule.config, rule.is_grouped, rule.eps)
    kernel, fixed, threads = _kernel(shape), _weights(rule), shape.threads
    heads, width = config.value_heads, config.value_heads * config.value_width

    def step(joined: mx.array, state: State | None) -> tuple[mx.array, State]:
        batch = joined.shape[0]
        tail, memory = state or nothing(config, batch, joined.dtype)
        found, tail, memory = kernel(
            [joined, *fixed, tail, memory],
            (threads * heads, batch, 1),
            (threads, 1, 1),
            [(batch, 1, width), tail.shape, memory.shape],
        )
        return found, (tail, memory)

    return step


CUDA = Steps(fits, cuda)


def _weights(rule: Rule) -> list[mx.array]:
    """As the kernel has them."""
    wide = rule.decay_bias, mx.exp(rule.decay_log.astype(mx.float32)), rule.norm
    weights = [rule.convolution, *(array.astype(mx.float32) for array in wide)]
    mx.eval(weights)  # or only the thread that loads a model could use them
    return weights


@cache
def _kernel(shape: Shape) -> Kernel:
    return compiled.kernel(program(shape))


def program(shape: Shape) -> Program:
    number, wide = mx.bfloat16, mx.float32
    inputs = {
        "joined": number,
        "convolution": number,
        "decay_bias": wide,
        "decay_speed": wide,
        "norm": wide,
        "tail": number,
        "memory": wide,
    }
    outputs = {"out": number, "next_tail": number, "next_memory": wide}
    return Program(
        "delta_step",
        tuple(Array(name, dtype) for name, dtype in inputs.items()),
        tuple(Array(name, dtype) for name, dtype in outputs.items()),
        source(shape),
        HEADER % (),
    )


def source(shape: Shape) -> str:
    """The kernel's body."""
    config = shape.config
    queries, keys, values = config.parts
    words: dict[str, object] = {
        "H": config.value_heads,
        "P": config.key_width,
        "Q": config.value_width,
        "W": config.kernel,
        "C": config.channels,
        "N": config.channels + values + 2 * config.value_heads,
        "threads": shape.threads,
        "served": config.served,
        "keys": queries,  # where their channels begin
        "values": queries + keys,
        "group": 2 * (config.key_width + config.served * config.value_width),
        "scale": f"{config.key_width**-0.5!r}f",
        "length_eps": f"{LENGTH_EPS!r}f",
        "eps": f"{shape.eps!r}f",
    }
    places = GROUPED if shape.is_grouped else APART
    return BODY % (words | {name: text % words for name, text in places.items()})
