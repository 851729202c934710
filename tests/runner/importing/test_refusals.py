"""What cannot be imported is one line, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles, LoadError, UnsupportedModel
from tests.parts.checkpoints import EXPERTS, GPT_OSS, Tensors, checkpoint, floats, one_by_one
from tests.parts.quantized import Q4, in_mlx_spelling
from tests.parts.stores import bring_in

UP = "model.layers.0.mlp.up_proj.weight"
GROUP = "model.layers.0.mlp.experts"


def without(tensors: Tensors, *gone: str) -> Tensors:
    return {name: array for name, array in tensors.items() if name not in gone}


REFUSED: list[tuple[Callable[[], Tensors], dict[str, Any], str | None, type[LoadError], str]] = [
    (
        lambda: in_mlx_spelling(floats(), lambda path: Q4),
        {},
        "int4",
        UnsupportedModel,
        "the model is quantized already; --quantize takes float models",
    ),
    (
        lambda: {f"{UP}.scale": mx.zeros(2), UP: mx.zeros(2, mx.uint32)},
        {},
        "nvfp4",
        UnsupportedModel,
        "the model is quantized already; --quantize takes float models",
    ),
    (
        lambda: {UP: mx.zeros((128, 100))},
        {},
        "int4",
        UnsupportedModel,
        "nothing can be quantized to int4: no matrix has rows of a multiple of 64",
    ),
    (
        lambda: {**floats(), UP: mx.zeros((256, 16), mx.uint32)},
        {},
        None,
        UnsupportedModel,
        f"tensor {UP} is U32; floats and MLX's quantized matrices can be imported",
    ),
    (
        lambda: without(in_mlx_spelling(floats(), lambda path: Q4), UP),
        {},
        None,
        BadModelFiles,
        "model.layers.0.mlp.up_proj.scales without model.layers.0.mlp.up_proj.weight",
    ),
    (
        lambda: {f"{GROUP}.down_proj_blocks": mx.zeros((4, 64, 2, 16), mx.uint8)},
        EXPERTS,
        None,
        BadModelFiles,
        f"{GROUP}.down_proj_blocks without {GROUP}.down_proj_scales",
    ),
    (
        lambda: without(one_by_one(floats(**EXPERTS)), f"{GROUP}.2.up_proj.weight"),
        EXPERTS,
        "int4",
        BadModelFiles,
        f"{GROUP}.up_proj.weight: there are tensors of 3 experts, expected 0 to 3",
    ),
    (
        lambda: {**one_by_one(floats(**EXPERTS)), f"{GROUP}.2.up_proj.weight": mx.zeros((2, 64))},
        EXPERTS,
        None,
        BadModelFiles,
        f"{GROUP}.up_proj.weight: the experts' tensors differ in shape or dtype",
    ),
    (
        lambda: {
            f"{GROUP}.gate_up_proj": mx.zeros((4, 128, 64))
        },  # [N,in,out] of an architecture like any other
        EXPERTS,
        "int4",
        UnsupportedModel,
        f"tensor {GROUP}.gate_up_proj (4, 128, 64): experts in this layout cannot be quantized",
    ),
    (
        lambda: {f"{GROUP}.down_proj": mx.zeros((4, 128, 128))},  # either way
        EXPERTS,
        "int4",
        UnsupportedModel,
        f"tensor {GROUP}.down_proj (4, 128, 128): experts in this layout cannot be quantized",
    ),
    (
        lambda: {f"{GROUP}.gate_up_proj": mx.zeros((4, 128, 127))},
        GPT_OSS,
        "int4",
        UnsupportedModel,
        f"tensor {GROUP}.gate_up_proj (4, 128, 127): experts in this layout cannot be quantized",
    ),
    (
        floats,
        {"quantization_config": {"quant_method": "gptq"}},
        "int4",
        UnsupportedModel,
        "quantization method 'gptq' is not supported: give a checkpoint for MLX",
    ),
]


@pytest.mark.parametrize(("tensors", "config", "kind", "error", "message"), REFUSED)
def test_what_cannot_be_imported_is_one_line(
    tmp_path: Path,
    tensors: Callable[[], Tensors],
    config: dict[str, Any],
    kind: str | None,
    error: type[LoadError],
    message: str,
) -> None:
    folder = checkpoint(tmp_path / "tiny", tensors(), **config)
    with pytest.raises(error) as caught:
        bring_in(folder, tmp_path / "store", kind)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_broken_description_is_found_before_anything_is_written(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", floats())
    (folder / "special_tokens_map.json").write_text("[]")
    with pytest.raises(BadModelFiles, match="special_tokens_map"):
        bring_in(folder, tmp_path / "store", "int4")
    assert not (tmp_path / "store").exists()


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", floats())
    mx.save_safetensors(str(folder / "other.safetensors"), {UP: mx.zeros(2)})
    with pytest.raises(BadModelFiles, match=r"is there twice, in model\.safetensors and in other"):
        bring_in(folder, tmp_path / "store")
