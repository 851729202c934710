"""Quantized tensors in a store and in a directory: every spelling against every other."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from runner.quantization.matrix import in_mlx_layout
from tests.parts import mlx_lm, stores
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, TOKENS, Tensors, checkpoint, floats
from tests.parts.models import loaded, logits
from tests.parts.quantized import Q4, in_mlx_spelling, in_store_spelling, mixed
from tests.parts.stores import Metadata, each_tensor, whole_blob


def in_a_store(store: Path, folder: Path, tensors: Tensors, metadata: Metadata) -> Path:
    """The same tensors as a host lays them down: a blob for each matrix with all that belongs to it."""
    made = []
    companions = (".scales", ".biases", ".global_scale")
    for name in tensors:
        if name.endswith(companions):
            continue
        path = name.removesuffix(".weight")
        group = [name, *(path + ending for ending in companions if path + ending in tensors)]
        written = metadata(path, how) if len(group) > 1 and (how := mixed(path)) else {}
        spelled = {in_store_spelling(part): tensors[part] for part in group}
        made.append(stores.add_tensors(store, name, spelled, written))
    return stores.write_manifest(store, folder, made)


METADATA: dict[str, Metadata] = {
    "none": lambda path, how: {},
    "of the blob": whole_blob,
    "of each tensor": each_tensor,
}


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_weights_through_the_store_give_the_same_logits(
    tmp_path: Path, metadata: str, packed: bool
) -> None:
    tensors = in_mlx_spelling(floats(tie_word_embeddings=False), mixed)
    tensors["model.layers.0.mlp.gate_proj.global_scale"] = mx.array(0.8)
    folder = checkpoint(tmp_path / "tiny", tensors, tie_word_embeddings=False)
    store = in_a_store(tmp_path / "store", folder, tensors, METADATA[metadata])
    there = loaded("tiny", store, packed)
    assert mx.array_equal(logits(there.model, TOKENS), logits(loaded(folder, packed=packed).model, TOKENS))


def test_a_store_that_kept_another_tools_config_is_loaded_by_its_tensors(tmp_path: Path) -> None:
    """An import converts the tensors and copies config.json as it was."""
    tensors = in_mlx_spelling(floats(), mixed)
    folder = checkpoint(tmp_path / "tiny", tensors, quantization_config={"quant_method": "modelopt"})
    store = in_a_store(tmp_path / "store", folder, tensors, whole_blob)
    assert loaded("tiny", store).name == "tiny:latest"


@pytest.mark.parametrize("factor", ["weight.global_scale", "weight_scale_2", "global_scale"])
def test_every_name_of_the_global_scale_is_understood(factor: str) -> None:
    some = mx.array(TOKENS)
    tensors = {"x.weight": some, "x.weight.scale": some, f"x.{factor}": some, "x.input_scale": some}
    assert set(in_mlx_layout(tensors)) == {"x.weight", "x.scales", "x.global_scale"}


def test_a_real_bias_stays_a_bias_in_both_spellings(tmp_path: Path) -> None:
    weights = floats(attention_bias=True)
    tensors = in_mlx_spelling(weights, lambda path: Q4)
    stored = {in_store_spelling(name): array for name, array in tensors.items()}
    assert "model.layers.0.self_attn.q_proj.weight.bias" in stored
    assert "model.layers.0.self_attn.q_proj.bias" in stored
    one = checkpoint(tmp_path / "one", tensors, attention_bias=True)
    other = checkpoint(tmp_path / "other", stored, attention_bias=True)
    for keep in (False, True):
        ours, theirs = loaded(one, packed=keep).model, loaded(other, packed=keep).model
        assert mx.array_equal(logits(ours, TOKENS), logits(theirs, TOKENS))
    assert difference(logits(loaded(one).model, TOKENS), mlx_lm_logits_of(one)) < CLOSE


def mlx_lm_logits_of(folder: Path) -> mx.array:
    """mlx-lm wants to be told what we see for ourselves."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization": {"group_size": 64, "bits": 4}}))
    return mlx_lm.logits(folder, TOKENS)
