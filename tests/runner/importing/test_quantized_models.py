"""The import of models that are quantized already: their blobs, and the models that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.quantization.settings import FLOAT_MODES, Quantization
from runner.store.safetensors_header import read_header
from tests.parts.checkpoints import TOKENS, Tensors, checkpoint, floats
from tests.parts.models import loaded, logits
from tests.parts.quantized import Q4, converted, in_mlx_spelling, in_store_spelling, mixed, section
from tests.parts.stores import bring_in, host_config, layers

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize("stored", [False, True])
def test_a_quantized_model_is_imported_as_it_is(tmp_path: Path, stored: bool) -> None:
    """In either spelling; every mode and several widths, a factor too."""
    tensors = in_mlx_spelling(floats(tie_word_embeddings=False), mixed)
    tensors["model.layers.0.mlp.gate_proj.global_scale"] = mx.array(0.8)
    tensors["model.layers.0.mlp.gate_proj.input_scale"] = mx.array(0.1)  # for quantized activations
    declared: dict[str, Any] = {"group_size": 64, "bits": 4}
    affine = {path: how for path in paths(tensors) if (how := mixed(path)) and how.mode == "affine"}
    declared |= {path: {"group_size": how.group_size, "bits": how.bits} for path, how in affine.items()}
    spelled = {in_store_spelling(name): array for name, array in tensors.items()} if stored else tensors
    folder = checkpoint(tmp_path / "tiny", spelled, tie_word_embeddings=False, quantization=declared)
    summary = bring_in(folder, tmp_path)
    for packed in (False, True):
        assert mx.array_equal(
            logits(loaded("tiny", tmp_path, packed).model, TOKENS),
            logits(loaded(folder, packed=packed).model, TOKENS),
        )
    blobs = layers(tmp_path)
    assert not any("input_scale" in name for name in blobs)
    for path in paths(tensors):
        if how := mixed(path):
            header = read_header(blobs[f"{path}.weight"], path)
            said = header.metadata["quant_type"], header.metadata["group_size"]
            assert said == (word(how), str(how.group_size))
    names_in = {
        tensor.name for tensor in read_header(blobs["model.layers.0.mlp.gate_proj.weight"], "").tensors
    }
    at = "model.layers.0.mlp.gate_proj.weight"
    assert names_in == {at, f"{at}.scale", f"{at}.global_scale"}
    assert (host_config(tmp_path)["file_type"], summary.plan.kinds["mxfp4"]) == ("", 2)
    assert summary.plan.parameters == sum(array.size for array in floats(tie_word_embeddings=False).values())


def paths(tensors: Tensors) -> list[str]:
    return [
        name.removesuffix(".weight")
        for name, array in tensors.items()
        if name.endswith(".weight") and array.ndim > 1
    ]


def word(how: Quantization) -> str:
    return f"int{how.bits}" if how.mode == "affine" else how.mode


@pytest.mark.parametrize("how", [Q4, *FLOAT_MODES.values()], ids=str)
def test_one_kind_throughout_is_what_a_host_shows(tmp_path: Path, how: Quantization) -> None:
    folder = checkpoint(
        tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: how), quantization=section(how)
    )
    bring_in(folder, tmp_path)
    assert host_config(tmp_path)["file_type"] == word(how)
    assert mx.array_equal(
        logits(loaded("tiny", tmp_path).model, TOKENS), logits(loaded(folder).model, TOKENS)
    )


def test_what_mlx_lm_converted_to_mixed_bits_is_imported(tmp_path: Path) -> None:
    folder = converted(tmp_path, "bfloat16")
    summary = bring_in(folder, tmp_path)
    assert dict(summary.plan.kinds) == {"int4": 10, "int6": 3, "BF16": 7}
    assert mx.array_equal(
        logits(loaded("tiny", tmp_path).model, TOKENS), logits(loaded(folder).model, TOKENS)
    )
    assert read_header(layers(tmp_path)[DOWN], DOWN).metadata == {"quant_type": "int6", "group_size": "32"}


def test_settings_that_nobody_wrote_down_are_left_to_the_shapes(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    bring_in(folder, tmp_path)
    assert read_header(layers(tmp_path)[UP], UP).metadata == {}
    assert mx.array_equal(
        logits(loaded("tiny", tmp_path).model, TOKENS), logits(loaded(folder).model, TOKENS)
    )
