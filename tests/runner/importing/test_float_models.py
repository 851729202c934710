"""`import --quantize`: the blobs that are made of a float model, and the model that they are."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from safetensors import safe_open

from runner.importing import planning
from runner.quantization.settings import KINDS
from runner.store.safetensors_header import read_header
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, EXPERTS, TOKENS, checkpoint, floats, one_by_one
from tests.parts.models import loaded, logits
from tests.parts.policy import EIGHT, rounded
from tests.parts.quantized import quantize
from tests.parts.stores import bring_in, host_config, layers

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_import_is_the_model_of_mlxs_own_rounding(tmp_path: Path, kind: str, tied: bool) -> None:
    weights = floats(tie_word_embeddings=tied)
    bring_in(checkpoint(tmp_path / "floats", weights, tie_word_embeddings=tied), tmp_path, kind)
    folder = checkpoint(tmp_path / "rounded", rounded(weights, kind), tie_word_embeddings=tied)
    expected = logits(loaded(folder).model, TOKENS)
    assert mx.array_equal(logits(loaded("tiny", tmp_path).model, TOKENS), expected)
    assert difference(logits(loaded("tiny", tmp_path, packed=True).model, TOKENS), expected) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_blob_is_what_a_host_writes(tmp_path: Path, kind: str) -> None:
    halves = {name: array.astype(mx.bfloat16) for name, array in floats().items()}
    summary = bring_in(checkpoint(tmp_path / "floats", halves), tmp_path, kind)
    blobs = layers(tmp_path)
    for name, chosen in ((UP, kind), (DOWN, EIGHT[kind])):
        arrays, metadata = mx.load(str(blobs[name]), format="safetensors", return_metadata=True)
        assert metadata == {"quant_type": chosen, "group_size": str(KINDS[chosen].group_size)}
        parts = quantize(halves[name], KINDS[chosen])
        assert isinstance(arrays, dict)
        assert set(arrays) == {name, f"{name}.scale", *([f"{name}.bias"] if len(parts) == 3 else [])}
        for ending, part in zip(("", ".scale", ".bias"), parts, strict=False):
            assert arrays[name + ending].dtype == part.dtype
            assert mx.array_equal(arrays[name + ending], part)
    kept = "model.layers.0.input_layernorm.weight"
    header = read_header(blobs[kept], kept)
    assert (header.metadata, header.tensors[0].dtype) == ({}, "BF16")
    config = host_config(tmp_path)
    assert (config["file_type"], config["requires"]) == (kind, "0.19.0")
    assert summary.plan.kinds["BF16"] == len([name for name in halves if "norm" in name])
    assert summary.weight_bytes < 0.8 * summary.source_bytes


@pytest.mark.parametrize("kind", [None, "int4", "nvfp4"])
def test_every_blob_is_a_file_to_the_reference_implementation(tmp_path: Path, kind: str | None) -> None:
    folder = checkpoint(tmp_path / "floats", one_by_one(floats(**EXPERTS)), **EXPERTS)
    summary = bring_in(folder, tmp_path, kind)
    for blob in summary.plan.blobs:
        with safe_open(layers(tmp_path)[blob.name], framework="numpy") as file:
            assert set(file.keys()) == {name for item in blob.items for name, _, _ in item.stored}
            assert (file.metadata() or {}) == blob.metadata


def test_floats_that_are_imported_as_they_are_need_no_new_host(tmp_path: Path) -> None:
    bring_in(checkpoint(tmp_path / "floats", floats()), tmp_path)
    config = host_config(tmp_path)
    assert (config["file_type"], config["requires"]) == ("f32", "0.14.0")


def test_sampling_defaults_are_taken_over_under_the_hosts_names(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "floats", floats())
    given = {"top_k": 20.0, "top_p": 0.95, "temperature": 1, "repetition_penalty": 1.05, "penalty_last_n": 64}
    others = {"min_p": None, "presence_penalty": "high", "do_sample": True, "typical_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(given | others))
    bring_in(folder, tmp_path)
    assert host_config(tmp_path)["generation_defaults"] == {
        "top_k": 20,
        "top_p": 0.95,
        "temperature": 1.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.05,
    }


def test_the_same_name_again_replaces_the_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "floats", floats())
    bring_in(folder, tmp_path)
    before = layers(tmp_path)[UP]
    bring_in(folder, tmp_path, "int8")
    assert layers(tmp_path)[UP] != before
    assert host_config(tmp_path)["file_type"] == "int8"


def test_a_large_matrix_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "floats", floats())
    whole = bring_in(folder, tmp_path / "whole", "int4")
    monkeypatch.setattr(planning, "MAX_PIECE", 5000)
    pieces = bring_in(folder, tmp_path / "pieces", "int4")
    assert max(len(item.sources) for blob in whole.plan.blobs for item in blob.items) == 1
    assert max(len(item.sources) for blob in pieces.plan.blobs for item in blob.items) > 1
    assert {path.name for path in layers(tmp_path / "whole").values()} == {
        path.name for path in layers(tmp_path / "pieces").values()
    }
