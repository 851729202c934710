"""nvfp4 as ModelOpt and compressed-tensors write it: MLX's bytes under other names and types.

    MLX             ModelOpt             compressed-tensors
    X.weight        X.weight             X.weight_packed         two codes a byte, U8 [.., N, W/2]: U32 [.., N, W/8]
    X.scales        X.weight_scale       X.weight_scale          F8_E4M3 [.., N, W/16]: U8
    X.global_scale  X.weight_scale_2     X.weight_global_scale   the second is one over it

In both the first code of a byte is in its lower half, as in MLX's words on a little-endian machine.

Knows nothing about arrays: it reads no tensor.
"""

from __future__ import annotations

from dataclasses import replace

from runner.errors import BadModelFiles
from runner.importing.plan import Located
from runner.quantization.names import GLOBAL, SCALES

BLOCK_SCALE = ".weight_scale"
MODELOPT, COMPRESSED = (".weight", ".weight_scale_2"), (".weight_packed", ".weight_global_scale")


def in_mlx_names(found: dict[str, Located]) -> dict[str, Located]:
    """The tensors with these matrices as MLX has them; the same dictionary if there are none."""
    made: dict[str, Located] = {}
    gone: set[str] = set()
    for name, scales in found.items():
        path = name.removesuffix(BLOCK_SCALE)
        if path == name or scales.tensor.dtype != "F8_E4M3":
            continue
        for codes, factor in (MODELOPT, COMPRESSED):
            packed = found.get(path + codes)
            if packed is None or packed.tensor.dtype != "U8":
                continue
            made[f"{path}.weight"] = _as_words(packed)
            made[path + SCALES] = _as(scales, "U8", scales.tensor.shape)
            gone |= {name, path + codes}
            if path + factor in found:
                made[path + GLOBAL] = _factor(found[path + factor], inverted=factor == COMPRESSED[1])
                gone.add(path + factor)
    if not made:
        return found
    return {name: located for name, located in found.items() if name not in gone} | made


def _as_words(packed: Located) -> Located:
    *rows, width = packed.tensor.shape or (0,)
    if not rows or width % 4:
        raise BadModelFiles(
            f"tensor {packed.tensor.name}: {packed.tensor.shape} is no matrix of packed codes"
        )
    return _as(packed, "U32", (*rows, width // 4))


def _factor(located: Located, *, inverted: bool) -> Located:
    tensor = located.tensor
    if tensor.dtype != "F32":
        raise BadModelFiles(f"tensor {tensor.name} is {tensor.dtype}, expected F32")
    return replace(located, inverted=inverted)


def _as(located: Located, dtype: str, shape: tuple[int, ...]) -> Located:
    return replace(located, tensor=replace(located.tensor, dtype=dtype, shape=shape))
