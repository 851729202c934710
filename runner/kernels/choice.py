"""Which form of an operation the device computes with; asked when something is made that keeps it.

Knows nothing about models or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels import attention as one_row
from runner.kernels import (
    by_inputs,
    choosing_cuda,
    compiled,
    delta_chunks_cuda,
    dequantize_cuda,
    experts_cuda,
    seam_cuda,
)
from runner.kernels import choosing as choosings
from runner.kernels import rotation as rotations
from runner.kernels.activations import CPU, PLAIN, Activations
from runner.kernels.attention import Attention
from runner.kernels.attention_cuda import on_cuda
from runner.kernels.choosing import Choosing
from runner.kernels.delta import Recurrence
from runner.kernels.delta_chunks import chunked
from runner.kernels.delta_cuda import CUDA as CUDA_STEPS
from runner.kernels.dequantize import Dequantize
from runner.kernels.dequantize import plain as dequantize_plain
from runner.kernels.few_rows import FewRows
from runner.kernels.product import Matrix, Products
from runner.kernels.product_cuda import CUDA as CUDA_PRODUCTS
from runner.kernels.quantized_attention import Floats, Scaled, by_blocks
from runner.kernels.rotation import Rotation, Turning
from runner.kernels.rows_attention import AtOnce
from runner.kernels.rows_attention_cuda import CUDA
from runner.machine import device


def rows_attention() -> AtOnce | None:
    """How rows that decode together attend at once; None: they do not."""
    return CUDA if device.kind() == "cuda" and compiled.works() else None


def attention() -> Attention:
    """How the queries of one row attend."""
    forms: dict[device.Kind, Attention] = {"cpu": one_row.on_cpu, "cuda": on_cuda}
    return forms.get(device.kind(), mx.fast.scaled_dot_product_attention)


def quantized_attention(bits: int) -> Attention:
    """How they do where keys and values are kept in so many bits."""
    return by_blocks(bits, Scaled.of if device.kind() == "cpu" else Floats.of)


def products() -> Products | None:
    """How few positions are multiplied with a weight, with what stands around it; None: by MLX's own operations."""
    return CUDA_PRODUCTS if device.kind() == "cuda" and compiled.works() else None


def multiplies(matrix: Matrix) -> bool:
    """Whether few positions go through a kernel of ours with this one, or these, where there are several."""
    if products() is None:
        return False
    return CUDA_PRODUCTS.fits(matrix) if matrix.weight.ndim == 2 else experts_cuda.multiplies(matrix)


def dequantize() -> Dequantize:
    """How packed weights become floats for a product of many positions."""
    return dequantize_cuda.cuda if device.kind() == "cuda" and compiled.works() else dequantize_plain


def few_rows() -> FewRows | None:
    """How a few rows that decode go through layers; None: by MLX's own operations."""
    if device.kind() != "cuda" or not compiled.works():
        return None
    return FewRows(CUDA_PRODUCTS, CUDA_STEPS, experts_cuda.CUDA, seam_cuda.cuda)


def linear_chunks() -> Recurrence:
    """How linear attention goes on by many positions."""
    return delta_chunks_cuda.cuda if device.kind() == "cuda" and compiled.works() else chunked


def choosing() -> Choosing:
    """How the largest logit is found, and how the host learns of tokens."""
    return choosing_cuda.cuda() if device.kind() == "cuda" and compiled.works() else choosings.PLAIN


def rotation(turning: Turning) -> Rotation:
    return rotations.OnCpu(turning) if device.kind() == "cpu" else rotations.Plain(turning)


def prepares_ahead() -> bool:
    """Whether MLX makes room for operations long before the device comes to them."""
    return device.kind() == "cuda"


def lies_by_inputs(weight: mx.array) -> bool:
    """Whether a float weight [N,W] is better kept input by input."""
    return device.kind() == "cpu" and by_inputs.suits(weight) and by_inputs.is_faster()


def in_order_from() -> int:
    """Pairs of a token and an expert from which it pays to tell MLX that experts are in order. With CUDA its
    product takes 0.4 ms for 64 so, 0.1 otherwise; for 4,096 0.8 and 1.8 (128 experts of 768 by 2,048, H200).
    """
    return 2048 if device.kind() == "cuda" else 0


def activations() -> Activations:
    return CPU if device.kind() == "cpu" else PLAIN
