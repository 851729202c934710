"""The largest logit as one CUDA kernel, and tokens told in arrays that the host reads at once.

Why: MLX's argmax has one block for a row and takes 22 us, and the check of the logits is several operations more.
And an array of up to 8 bytes lies where the host reads it. A larger one is moved when the host reads it, to memory
that both sides may touch, and an operation of 2 us that gets its buffer next takes a hundred. So tokens are told in
pairs. What the next step feeds is another array, which the host never reads.

Unlike the plain form's, a row of finite logits is whole even where their sum overflows.

`choosing_source.py` has the sources and says how they go. Shapes: see `choosing.py`.

Knows nothing about models or requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.choosing import BROKEN, PLAIN, Choosing, Chosen
from runner.kernels.choosing_source import HEADER, LARGEST, TELL
from runner.kernels.compiled import Kernel
from runner.kernels.program import C_TYPES, Array, Program

MOST = 32  # rows
PAIR = 2  # tokens of 4 bytes
PAIRS = (1, 2, 4, 8, 16)
DTYPES = {mx.bfloat16, mx.float16, mx.float32}
THREADS = 256  # of a block
BLOCKS = 264  # that keep the largest GPU of today busy: two for each of its processors
MOST_SPLITS = 64
SHARE = 2048  # logits of a block at least: eight for each thread
# MLX may run the kernels of one graph at the same time, so each call counts in a place of its own. It has far fewer
# kernels in a graph than this.
TURNS = 512


@cache
def cuda() -> Choosing:
    """One for all who ask, since its calls take turns."""
    waiting = mx.zeros(TURNS * MOST, mx.int32)
    mx.eval(waiting)
    turns = itertools.cycle(range(0, TURNS * MOST, MOST))

    def largest(logits: mx.array) -> Chosen:
        rows, size = logits.shape
        if rows > MOST or logits.dtype not in DTYPES:
            return PLAIN.largest(logits)
        pairs, splits = _pairs(rows), _splits(rows, size)
        shares = (max(rows * splits, PAIR + 1),)  # not where the host reads
        tokens, _, _, *told = _largest(logits.dtype, pairs)(
            [logits, waiting],
            (THREADS * splits, rows, 1),
            (THREADS, 1, 1),
            [(rows,), shares, shares, *[(PAIR,)] * pairs],
            (size, next(turns)),
        )
        return Chosen(tokens, told)

    return Choosing(largest, tell)


def tell(tokens: mx.array) -> Sequence[mx.array]:
    rows = tokens.size
    if rows <= PAIR or rows > MOST:
        return PLAIN.tell(tokens)
    pairs = _pairs(rows)
    return _tell(pairs)([tokens], (MOST, 1, 1), (MOST, 1, 1), [(PAIR,)] * pairs, (rows,))


def _pairs(rows: int) -> int:
    """With room for so many rows: 1, 2, 4, 8 or 16, for each of which a kernel is compiled."""
    return next(pairs for pairs in PAIRS if PAIR * pairs >= rows)


def _splits(rows: int, size: int) -> int:
    """Over how many blocks a row is split."""
    return max(1, min(MOST_SPLITS, -(-BLOCKS // rows), size // SHARE))


@cache
def _largest(dtype: mx.Dtype, pairs: int) -> Kernel:
    return compiled.kernel(largest_program(dtype, pairs))


@cache
def _tell(pairs: int) -> Kernel:
    return compiled.kernel(tell_program(pairs))


def largest_program(dtype: mx.Dtype, pairs: int) -> Program:
    words = {"type": C_TYPES[dtype], "threads": THREADS, "broken": BROKEN, "cases": _cases(pairs)}
    found = Array("tokens", mx.uint32), Array("share_most", mx.float32), Array("share_at", mx.uint32)
    return Program(
        "largest_logit",
        (Array("logits", dtype), Array("waiting", mx.int32)),
        (*found, *_told(pairs)),
        LARGEST % words,
        HEADER % words,
        ("V", "turn"),
        THREADS,
    )


def tell_program(pairs: int) -> Program:
    body = TELL % {"cases": _cases(pairs)}
    return Program("tell", (Array("tokens", mx.uint32),), _told(pairs), body, numbers=("rows",))


def _told(pairs: int) -> tuple[Array, ...]:
    return tuple(Array(f"told{pair}", mx.uint32) for pair in range(pairs))


def _cases(pairs: int) -> str:
    return " ".join(f"case {pair}: told = told{pair}; break;" for pair in range(1, pairs))
