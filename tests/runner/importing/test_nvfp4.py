"""The import of nvfp4 as other tools write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles, UnsupportedModel
from runner.loading.description import describe
from runner.quantization.settings import KINDS
from runner.store.resolve import open_model
from runner.store.safetensors_header import read_header
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, TOKENS, Tensors, checkpoint, floats
from tests.parts.models import loaded, logits
from tests.parts.quantized import dequantize, quantize
from tests.parts.stores import bring_in, host_config, layers

UP = "model.layers.0.mlp.up_proj.weight"


def write_raw(path: Path, tensors: dict[str, tuple[str, mx.array]]) -> None:
    """A safetensors file with types that MLX does not have."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        begin = len(data)
        data += bytes(memoryview(mx.contiguous(array)))  # type: ignore[arg-type]  # not in MLX's stubs
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def of_modelopt(
    path: str, codes: mx.array, scales: mx.array, factor: float
) -> dict[str, tuple[str, mx.array]]:
    return {
        f"{path}.weight": ("U8", codes.view(mx.uint8)),
        f"{path}.weight_scale": ("F8_E4M3", scales),
        f"{path}.weight_scale_2": ("F32", mx.array(factor)),
        f"{path}.input_scale": ("F32", mx.array(0.1)),
    }


def compressed(
    path: str, codes: mx.array, scales: mx.array, factor: float
) -> dict[str, tuple[str, mx.array]]:
    return {
        f"{path}.weight_packed": ("U8", codes.view(mx.uint8)),
        f"{path}.weight_scale": ("F8_E4M3", scales),
        f"{path}.weight_global_scale": ("F32", mx.array([1 / factor])),
        f"{path}.input_global_scale": ("F32", mx.array([0.1])),
    }


def foreign(folder: Path, tool: Any, factor: float = 0.25) -> tuple[Path, Tensors]:
    """A directory of that tool, and the numbers that it stands for."""
    how, numbers = KINDS["nvfp4"], floats()
    raw: dict[str, tuple[str, mx.array]] = {}
    for name, array in floats().items():
        if name.endswith("proj.weight"):
            parts = quantize(array, how)
            numbers[name] = dequantize(parts, how) * factor
            raw |= tool(name.removesuffix(".weight"), *parts, factor)
        else:
            raw[name] = ("F32", array)
    checkpoint(folder, {}, quantization_config={"quant_method": tool.__name__})
    write_raw(folder / "model.safetensors", raw)
    return folder, numbers


@pytest.mark.parametrize("tool", [of_modelopt, compressed])
def test_nvfp4_of_other_tools_is_imported_as_it_is(tmp_path: Path, tool: Any) -> None:
    folder, numbers = foreign(tmp_path / "foreign", tool)
    summary = bring_in(folder, tmp_path)
    expected = logits(loaded(checkpoint(tmp_path / "plain", numbers)).model, TOKENS)
    assert difference(logits(loaded("tiny", tmp_path).model, TOKENS), expected) < CLOSE
    assert difference(logits(loaded("tiny", tmp_path, packed=True).model, TOKENS), expected) < CLOSE
    assert host_config(tmp_path)["file_type"] == "nvfp4"
    assert summary.plan.parameters == sum(array.size for array in numbers.values())
    header = read_header(layers(tmp_path)[UP], UP)
    assert header.metadata == {"quant_type": "nvfp4", "group_size": "16"}
    assert {tensor.name for tensor in header.tensors} == {UP, f"{UP}.scale", f"{UP}.global_scale"}
    assert describe(open_model(str(folder))).matrices == {"nvfp4 (16)": 14}
    with pytest.raises(UnsupportedModel, match="quantized already"):
        bring_in(folder, tmp_path, "int4")


def test_a_scale_without_an_inverse_is_refused(tmp_path: Path) -> None:
    folder, _ = foreign(tmp_path / "foreign", compressed, float("inf"))
    with pytest.raises(BadModelFiles, match="whose inverse is needed"):
        bring_in(folder, tmp_path / "store")
    assert not (tmp_path / "store/manifests").exists()
