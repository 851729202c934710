"""What an import quantizes to what, written down once more for the models of the tests."""

from __future__ import annotations

from runner.quantization.settings import KINDS
from tests.parts.checkpoints import Tensors
from tests.parts.quantized import dequantize, quantize

EIGHT = {"int4": "int8", "int8": "int8", "mxfp4": "mxfp8", "mxfp8": "mxfp8", "nvfp4": "mxfp8"}


def by_hand(name: str, shape: tuple[int, ...], kind: str) -> str | None:
    """The kind that a matrix gets where `kind` is asked for."""
    last = name.removesuffix(".weight").rpartition(".")[2]
    if last in ("q_proj", "o_proj", "gate_proj", "up_proj"):
        return kind
    experts = len(shape) == 3
    if last in ("k_proj", "v_proj", "lm_head") or (last == "down_proj" and not (experts and kind != "int4")):
        return EIGHT[kind]
    return kind if last == "down_proj" else None


def rounded(weights: Tensors, kind: str) -> Tensors:
    """Floats that have been through MLX's own quantization and back."""
    made = {}
    for name, array in weights.items():
        chosen = by_hand(name, array.shape, kind)
        if "embed_tokens" in name and "lm_head.weight" not in weights:
            chosen = EIGHT[kind]
        how = KINDS[chosen] if chosen else None
        made[name] = dequantize(quantize(array, how), how) if how else array
    return made
