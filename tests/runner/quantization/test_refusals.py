"""What is wrong with quantized tensors is one line that names one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import UnsupportedModel
from runner.quantization.declared import declarations
from tests.parts import refusals
from tests.parts.checkpoints import checkpoint, floats
from tests.parts.models import loaded
from tests.parts.quantized import Q4, in_mlx_spelling

UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{UP}.weight": None}, f"{UP}.scales without {UP}.weight"),
        ({f"{UP}.scales": None}, f"{UP}.biases without {UP}.scales"),
        (
            {f"{UP}.scales": None, f"{UP}.biases": None},
            f"{UP}.weight is packed (uint32), but there are no scales for it",
        ),
        ({f"{UP}.biases": None}, f"{UP}.weight: affine 4 bits by 64 needs biases"),
        (
            {f"{UP}.biases": mx.zeros((256, 4))},
            f"{UP}.biases float32 (256, 4) do not fit scales float32 (256, 2)",
        ),
        (
            {f"{UP}.weight": mx.zeros((256, 128))},
            f"{UP}.weight has scales, but it is float32 (256, 128), expected uint32",
        ),
        (
            {f"{UP}.weight": mx.zeros((256, 15), mx.uint32)},
            f"{UP}.weight: packed uint32 (256, 15) with scales float32 (256, 2) cannot stand for (256, 128)",
        ),
        (
            {f"{UP}.scales": mx.zeros((255, 2))},
            f"{UP}.weight: packed uint32 (256, 16) with scales float32 (255, 2) cannot stand for (256, 128)",
        ),
        (
            {f"{UP}.weight": mx.zeros((256, 28), mx.uint32)},
            f"{UP}.weight: 7 bits, expected one of 2, 3, 4, 5, 6, 8",
        ),
        (
            {f"{UP}.scales": mx.zeros((256, 2), mx.uint8)},
            f"{UP}.weight: no mode has byte scales with 4 bits by 64",
        ),
        (
            {f"{UP}.scales": mx.zeros((256, 2), mx.int32)},
            f"{UP}.weight: scales are int32 (256, 2), expected floats or uint8",
        ),
        (
            {f"{UP}.scales": mx.zeros((256, 4), mx.uint8)},
            f"{UP}.weight: mxfp4 4 bits by 32 has no biases",
        ),
        (
            {f"{UP}.global_scale": mx.array(1.0)},
            f"{UP}.global_scale float32 () does not fit {UP}.weight: affine 4 bits by 64",
        ),
        ({f"{UP}.weight.scale": mx.zeros(1)}, f"tensor {UP}.scales is there twice, in two spellings"),
        (
            {"model.norm.scales": mx.zeros(1)},
            "model.norm.weight has scales, but it is float32 (128,), expected uint32",
        ),
    ],
)
def test_parts_that_do_not_fit_are_one_line_with_the_tensors_name(
    tmp_path: Path, change: dict[str, mx.array | None], message: str
) -> None:
    tensors: dict[str, mx.array | None] = {**in_mlx_spelling(floats(), lambda path: Q4), **change}
    kept = {name: array for name, array in tensors.items() if array is not None}
    assert refusals.of_model(checkpoint(tmp_path / "tiny", kept)) == message


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"quant_type": "int8", "group_size": "64"},
            "metadata of {path}.weight: bits is 8, but {path}.weight is stored as affine 4 bits by 64",
        ),
        (
            {"{path}.weight.quant_type": "int4", "{path}.weight.group_size": "32"},
            "metadata of {path}.weight: group_size is 32, but {path}.weight is stored as affine 4 bits by 64",
        ),
        (
            {"quant_type": "nvfp4"},
            "metadata of {path}.weight: mode is nvfp4, but {path}.weight is stored as affine 4 bits by 64",
        ),
        (
            {"quant_type": "int4", "group_size": "-1"},
            "metadata of {path}.weight: group_size is '-1', expected a positive integer",
        ),
    ],
)
def test_metadata_that_contradicts_the_shapes_is_named(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    path = "model.embed_tokens"
    tensors = in_mlx_spelling(floats(), lambda at: Q4 if at == path else None)
    written = {key.format(path=path): value for key, value in metadata.items()}
    assert refusals.of_model(checkpoint(tmp_path / "tiny", tensors, written)) == message.format(path=path)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model."])
def test_what_a_multimodal_checkpoint_declares_is_found_under_the_models_path(prefix: str) -> None:
    entry = {"group_size": 32, "bits": 8}
    declared = declarations({"quantization": {f"{prefix}layers.0.mlp.up_proj": entry, "bits": 4}}, [])
    assert (declared[UP].group_size, declared[UP].bits, declared[UP].mode) == (32, 8, "affine")


def test_an_unknown_type_in_metadata_is_unsupported(tmp_path: Path) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: Q4 if path == UP else None)
    folder = checkpoint(tmp_path / "tiny", tensors, {"quant_type": "int7"})
    assert (
        refusals.of_model(folder, UnsupportedModel) == f"metadata of {UP}.weight: unknown quant_type 'int7'"
    )


def test_a_paths_entry_in_the_config_must_agree_but_the_defaults_need_not(tmp_path: Path) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: Q4)
    section: dict[str, Any] = {"group_size": 32, "bits": 8}
    loaded(checkpoint(tmp_path / "defaults", tensors, quantization=section))
    section[UP] = {"group_size": 64, "bits": 6}
    folder = checkpoint(tmp_path / "entry", tensors, quantization=section)
    assert refusals.of_model(folder) == (
        f"config.json: quantization of {UP}: bits is 6, but {UP}.weight is stored as affine 4 bits by 64"
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_other_tools_layouts_are_refused_by_name(tmp_path: Path, method: str) -> None:
    folder = checkpoint(tmp_path / "tiny", floats(), quantization_config={"quant_method": method})
    message = f"quantization method '{method}' is not supported: give a checkpoint for MLX"
    assert refusals.of_model(folder, UnsupportedModel) == message


def test_a_quantization_that_is_no_object_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", floats(), quantization=[4])
    assert refusals.of_model(folder) == "config.json: quantization is a list, expected an object"
