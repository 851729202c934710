"""Quantized checkpoints: the logits of the numbers that they stand for, and mlx-lm's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts import mlx_lm
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, TOKENS, checkpoint, floats
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import Q4, converted, dequantize, in_mlx_spelling, mixed, quantize, section


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_every_kind_of_tensor_gives_the_logits_of_its_numbers(tmp_path: Path, tied: bool) -> None:
    """The reference is a float checkpoint of what the quantized tensors stand for."""
    weights = floats(tie_word_embeddings=tied)
    numbers = {
        name: dequantize(quantize(array, how), how)
        if array.ndim == 2 and (how := mixed(name.removesuffix(".weight")))
        else array
        for name, array in weights.items()
    }
    plain = checkpoint(tmp_path / "plain", numbers, tie_word_embeddings=tied)
    small = checkpoint(tmp_path / "small", in_mlx_spelling(weights, mixed), tie_word_embeddings=tied)
    expected = logits(loaded(plain).model, TOKENS)
    assert difference(logits(loaded(small).model, TOKENS), expected) < CLOSE
    assert difference(logits(loaded(small, packed=True).model, TOKENS), expected) < CLOSE


@pytest.mark.parametrize("how", [Q4, Quantization(32, 5, "affine"), *FLOAT_MODES.values()], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_a_checkpoint_of_one_mode_gives_mlx_lms_logits(
    tmp_path: Path, how: Quantization, packed: bool
) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: how)
    folder = checkpoint(
        tmp_path / "tiny", tensors, quantization=section(how), quantization_config=section(how)
    )
    model = loaded(folder, packed=packed).model
    assert difference(logits(model, TOKENS), mlx_lm.logits(folder, TOKENS)) < CLOSE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_mlx_lm_converts_to_mixed_bits_loads_as_it_is(tmp_path: Path, dtype: str) -> None:
    folder = converted(tmp_path, dtype)
    declared = json.loads((folder / "config.json").read_text())["quantization"]
    assert declared["bits"] == 4
    assert declared["model.layers.0.mlp.down_proj"]["bits"] == 6
    expected = mlx_lm.logits(folder, TOKENS)
    assert difference(logits(loaded(folder).model, TOKENS), expected) < CLOSE
    assert difference(logits(loaded(folder, packed=True).model, TOKENS), expected) < CLOSE


HYBRID: dict[str, Any] = {
    "tie_word_embeddings": False,
    "head_dim": 32,
    "full_attention_interval": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "partial_rotary_factor": 0.25,
    "num_experts": 0,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
}


@pytest.mark.parametrize(
    ("architecture", "kind"), [("Qwen3NextForCausalLM", "qwen3_next"), ("Qwen3_5ForCausalLM", "qwen3_5")]
)
@pytest.mark.parametrize("how", [Quantization(32, 4, "affine"), FLOAT_MODES["mxfp4"]], ids=str)
def test_projections_of_linear_attention_stay_packed_too(
    tmp_path: Path, architecture: str, kind: str, how: Quantization
) -> None:
    """Those that read the same input are one by then."""
    config = HYBRID | {"architectures": [architecture], "model_type": kind}
    tensors = in_mlx_spelling(floats(**config), lambda path: how)
    folder = checkpoint(tmp_path / "tiny", tensors, **config, quantization=section(how))
    model = loaded(folder, packed=True).model
    path = "model.layers.0.linear_attn."
    packed = {name for name in parameters(model) if name.startswith(path) and name.endswith(".scales")}
    assert packed == {f"{path}in_proj.whole.scales", f"{path}out_proj.scales"}
    expected = mlx_lm.logits(folder, TOKENS)
    assert difference(logits(loaded(folder).model, TOKENS), expected) < CLOSE
    assert difference(logits(model, TOKENS), expected) < CLOSE
