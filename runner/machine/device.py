"""What depends on the device that computes: numbers that differ between CPU, Metal and CUDA, and how its thread
begins and ends.

`prepare` and `leave` belong to the worker thread.

Knows nothing about models or requests.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from typing import Literal

import mlx.core as mx

from runner.machine import kernel_folder
from runner.machine.blas import blas_is_slow, blas_name

log = logging.getLogger(__name__)

Kind = Literal["cpu", "metal", "cuda"]

# Positions per prefill forward. A chunk is the longest time for which a cancel goes unnoticed and, on a Mac,
# for which the window server may find the GPU busy; a larger one feeds a larger matrix product.
PREFILL_CHUNK: dict[Kind, int] = {"cpu": 256, "metal": 512, "cuda": 2048}

# Of up to a hundred operations each; MLX keeps 400. A forward of a few prompts beside rows has some thirty, which
# are like no others, and one that is not kept is prepared again.
KEPT_GRAPHS = 4000

# How long a step, or a part of a load, may take before it counts as stuck. Without a fast BLAS a CPU of two cores
# makes 3 GFLOP/s, so that the first chunk of a model of 8 billion takes it 23 minutes.
PATIENCE_S: dict[Kind, int] = {"cpu": 3600, "metal": 600, "cuda": 600}


def kind() -> Kind:
    """The device that computes by default."""
    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def prefill_chunk() -> int:
    return PREFILL_CHUNK[kind()]


def patience_s() -> int:
    return PATIENCE_S[kind()]


def packs_prompts() -> bool:
    """Whether chunks of prompts go through the layers beside other rows: where that was seen to pay."""
    return kind() != "metal"


def packed_prompts() -> int:
    """Prompts that may share a forward. With CUDA each number of them makes graphs of operations of its own, which
    take longer to prepare than to run; a few of them are rehearsed.
    """
    return 4 if kind() == "cuda" else 64


def prompt_grain() -> int:
    """Positions of which a part of a prompt is a multiple, where parts of several are packed: with CUDA each other
    length is a shape that its libraries have not met.
    """
    return 512 if kind() == "cuda" else 1


def compiles_kernels() -> bool:
    """Whether the first use of an operation waits for a compiler."""
    return kind() == "cuda"


def weight_dtype(stored: mx.Dtype) -> mx.Dtype:
    """The dtype to compute in: float32 on a CPU, where only float32 reaches the BLAS, else as stored."""
    return mx.float32 if kind() == "cpu" else stored


def prepare() -> None:
    """Once, on the worker thread, before the first model.

    On a CPU `mx.compile` runs a C++ compiler as a child process: it may be missing, it would hold the host's
    end of our output pipe after a SIGKILL, and its result is loaded from a guessable name in the temporary
    folder. So compiled functions fall back to their plain operations there.
    """
    if kind() == "cpu":
        mx.disable_compile()
        if blas_is_slow():
            log.warning(
                "slow matrix products: neither MKL nor OpenBLAS found; install one for prefill up to 190 times "
                "faster (x86-64: pip install 'mlx-runner[mkl]', Debian: apt install libopenblas0-pthread)"
            )
    if kind() == "cuda":
        kernel_folder.prepare()
        os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", str(KEPT_GRAPHS))
    blas = {"blas": blas_name() or "MLX's own"} if kind() == "cpu" else {}
    log.info("MLX ready", extra={"version": version("mlx"), "device": kind(), **blas})


def leave() -> None:
    """The last thing the worker thread does: without it the process can abort at exit."""
    mx.synchronize()
    mx.clear_streams()
