"""How a matrix is quantized: mode, bits and group size, and the words for them.

Knows nothing about tensors, their names, files or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_KERNEL_GROUPS = (32, 64, 128)  # what MLX's kernels take; other sizes are dequantized at load


@dataclass(frozen=True, slots=True)
class Quantization:
    """How codes become numbers."""

    group_size: int
    bits: int
    mode: Mode

    @property
    def has_kernel(self) -> bool:
        """Whether MLX multiplies by it as it is."""
        return self.mode != "affine" or self.group_size in AFFINE_KERNEL_GROUPS

    def __str__(self) -> str:
        return f"{self.mode} {self.bits} bits by {self.group_size}"


# The modes whose scales are bytes; bits and group size follow from the mode.
FLOAT_MODES: dict[str, Quantization] = {
    "mxfp4": Quantization(32, 4, "mxfp4"),
    "mxfp8": Quantization(32, 8, "mxfp8"),
    "nvfp4": Quantization(16, 4, "nvfp4"),
}
# What `import --quantize` makes, by the store's names.
KINDS: dict[str, Quantization] = {
    "int4": Quantization(64, 4, "affine"),
    "int8": Quantization(64, 8, "affine"),
    **FLOAT_MODES,
}
# The store's quant_type, in small letters. "fp4" and "fp8" are its old words for int4 and int8.
AFFINE_TYPES = {f"{word}{bits}": bits for word in ("int", "q") for bits in AFFINE_BITS} | {"fp4": 4, "fp8": 8}


def quant_type(settings: Quantization | None) -> str:
    """The store's word for them."""
    if settings is None:
        return "unknown"
    return f"int{settings.bits}" if settings.mode == "affine" else settings.mode


def kind_text(settings: Quantization | None) -> str:
    """For people: int4 (64)."""
    return f"{quant_type(settings)} ({settings.group_size})" if settings else "unknown"
