"""The few parts of mlx.nn that models are made of, under names that a strict type checker can follow.

mlx ships type information but re-exports nothing explicitly from `mlx.nn` and leaves some signatures open; better
said once here than ignored in every file.

Knows nothing about models.
"""

from __future__ import annotations

from mlx.nn.layers.activations import silu
from mlx.nn.layers.base import Module as UntypedModule
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import RMSNorm

__all__ = ["Embedding", "Linear", "Module", "RMSNorm", "silu"]


class Module(UntypedModule):
    """mlx.nn.Module with an annotated constructor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the reason for this class
