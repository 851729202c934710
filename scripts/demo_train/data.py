"""Blocks of token rows, made by other processes while the model trains on the ones before.

Block N is a function of the seed and N alone, so a resumed run sees exactly what an unbroken one would have seen.
A row is cut from one long stream of documents, each with its first and last token; nothing is padded.
Knows nothing about the model.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from demo_corpus import documents
from numpy.typing import NDArray
from tokenizers import Tokenizer

STEPS_PER_BLOCK = 32
Block = NDArray[np.uint16]
"""[steps, rows, length + 1]"""


@dataclass(frozen=True)
class Plan:
    """How many tokens a step takes, and which share of the steps has long rows."""

    tokenizer: str
    seed: int
    steps: int
    tokens_per_step: int
    length: int
    long_length: int
    long_share: float

    def length_at(self, block: int) -> int:
        """The row length of a block.

        Towards the end every second block has long rows, so that late positions are trained, and the short texts
        that people mostly write are not forgotten.
        """
        blocks = -(-self.steps // STEPS_PER_BLOCK)
        ordinary = round(blocks * (1 - 2 * self.long_share))
        return self.long_length if block >= ordinary and (block - ordinary) % 2 == 0 else self.length


def make_block(plan: Plan, index: int) -> Block:
    """Block `index` of the plan."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    tokenizer = Tokenizer.from_str(plan.tokenizer)
    length = plan.length_at(index)
    rows = max(1, plan.tokens_per_step // length)
    needed = STEPS_PER_BLOCK * rows * (length + 1)
    source = documents("train", plan.seed * 1_000_003 + index)
    ids: list[int] = []
    while len(ids) < needed:
        batch = [next(source) for _ in range(256)]
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            ids += encoding.ids
    return np.array(ids[:needed], dtype=np.uint16).reshape(STEPS_PER_BLOCK, rows, length + 1)


def batches(plan: Plan, first_step: int) -> Iterator[NDArray[np.uint16]]:
    """The batch [rows, length + 1] of each step from `first_step` on."""
    workers = max(1, min(15, (os.cpu_count() or 2) - 1))
    first, last = first_step // STEPS_PER_BLOCK, (plan.steps - 1) // STEPS_PER_BLOCK
    # A fork would copy the GPU's state into the children; a fresh process is slower to start and safe.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[Block]] = deque()
        coming = iter(range(first, last + 1))
        step = first_step
        try:
            while step < plan.steps:
                for index in itertools.islice(coming, workers + 1 - len(waiting)):
                    waiting.append(pool.submit(make_block, plan, index))
                block = waiting.popleft().result()
                from_here = block[step % STEPS_PER_BLOCK :][: plan.steps - step]
                yield from from_here
                step += len(from_here)
        finally:
            for future in waiting:
                future.cancel()
