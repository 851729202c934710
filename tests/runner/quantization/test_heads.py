"""GLM's heads, quantized: as mlx-lm converts them, and as one map of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from runner.layers.packed import PackedHeads
from runner.quantization.settings import Quantization
from tests.parts import mlx_lm
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, GLM, LONG, TOKENS, checkpoint, floats
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import EVERY_MODE, Q4, dequantize, named, quantize, section

FACTORS = (1.25, 0.5, 2.0, 1.0)  # one for each head


def same(folder: Path, expected: Path) -> None:
    """In floats and packed, for steps and chunks."""
    dense, ours, packed = loaded(expected).model, loaded(folder).model, loaded(folder, packed=True).model
    for tokens in (TOKENS[:1], TOKENS, LONG):
        assert difference(logits(ours, tokens), logits(dense, tokens)) < CLOSE
        assert difference(logits(packed, tokens), logits(dense, tokens)) < CLOSE


@pytest.mark.parametrize("how", EVERY_MODE, ids=str)
def test_what_mlx_lm_quantizes_of_glm_loads_as_it_is(tmp_path: Path, how: Quantization) -> None:
    """Its heads' maps are quantized too, and stay packed."""
    from mlx.nn.layers.quantized import quantize as quantize_module

    theirs = {name.replace(".experts.", ".switch_mlp."): array for name, array in floats(**GLM).items()}
    folder = checkpoint(tmp_path / "tiny", theirs, **GLM)
    model = mlx_lm.loaded(folder)
    quantize_module(model, how.group_size, how.bits, mode=how.mode)
    checkpoint(folder, parameters(model), **GLM, quantization=section(how))
    expected = mlx_lm.logits(folder, TOKENS)
    ours: Any = loaded(folder, packed=True).model
    assert type(ours.model.layers[0].self_attn.embed_q) is PackedHeads
    assert type(ours.model.layers[0].self_attn.unembed_out) is PackedHeads
    assert difference(logits(ours, TOKENS), expected) < CLOSE
    assert difference(logits(loaded(folder).model, TOKENS), expected) < CLOSE


@pytest.mark.parametrize("how", EVERY_MODE, ids=str)
def test_packed_heads_are_their_numbers_at_every_length(tmp_path: Path, how: Quantization) -> None:
    plain, small = floats(**GLM), floats(**GLM)
    for layer in range(2):
        for name in ("embed_q", "unembed_out"):
            path = f"model.layers.{layer}.self_attn.{name}"
            parts = quantize(plain[f"{path}.weight"], how)
            plain[f"{path}.weight"] = dequantize(parts, how)
            small |= named(path, parts)
            if how.mode == "nvfp4":
                small[f"{path}.global_scale"] = mx.array(FACTORS)
                plain[f"{path}.weight"] *= mx.array(FACTORS)[:, None, None]
    same(checkpoint(tmp_path / "small", small, **GLM), checkpoint(tmp_path / "plain", plain, **GLM))


@pytest.mark.parametrize("how", EVERY_MODE, ids=str)
def test_a_quantized_map_of_all_heads_is_taken_apart(tmp_path: Path, how: Quantization) -> None:
    plain, small = floats(**GLM), floats(**GLM)
    for layer in range(2):
        path = f"model.layers.{layer}.self_attn"
        keys, values = (small.pop(f"{path}.{name}.weight") for name in ("embed_q", "unembed_out"))
        parts = quantize(mx.concatenate([keys.swapaxes(1, 2), values], axis=1).flatten(0, 1), how)
        small |= named(f"{path}.kv_b_proj", parts)
        numbers = dequantize(parts, how)
        if how.mode == "nvfp4":
            small[f"{path}.kv_b_proj.global_scale"] = mx.array([0.7])
            numbers *= 0.7
        keys, values = mx.split(numbers.reshape(4, 128, 128), 2, axis=1)
        plain[f"{path}.embed_q.weight"] = keys.swapaxes(1, 2)
        plain[f"{path}.unembed_out.weight"] = values
    same(checkpoint(tmp_path / "small", small, **GLM), checkpoint(tmp_path / "plain", plain, **GLM))


def test_a_quantized_map_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = floats(**GLM)
    path = "model.layers.0.self_attn"
    del tensors[f"{path}.embed_q.weight"], tensors[f"{path}.unembed_out.weight"]
    tensors |= named(f"{path}.kv_b_proj", quantize(mx.zeros((256, 128)), Q4))
    folder = checkpoint(tmp_path / "tiny", tensors, **GLM)
    with pytest.raises(BadModelFiles, match=r"kv_b_proj\.weight: packed .* cannot stand for \(512, 128\)"):
        loaded(folder)
