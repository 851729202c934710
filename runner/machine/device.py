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

# MLX gives operations to a GPU of NVIDIA's as graphs, and on an H200 begins another one when one has read 1 GB. A
# step reads all weights: in one graph, not in sixteen, 8 billion parameters in bfloat16 decode 0.9 % faster.
GRAPHS = ("MLX_MAX_MB_PER_BUFFER", "16000")

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
        os.environ.setdefault(*GRAPHS)
        kernel_folder.prepare()
    blas = {"blas": blas_name() or "MLX's own"} if kind() == "cpu" else {}
    log.info("MLX ready", extra={"version": version("mlx"), "device": kind(), **blas})


def leave() -> None:
    """The last thing the worker thread does: without it the process can abort at exit."""
    mx.synchronize()
    mx.clear_streams()
