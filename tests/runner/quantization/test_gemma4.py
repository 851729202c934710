"""Gemma 4 quantized: the embeddings of each layer, the experts, and the spellings that these have in files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts import checkpoints, mlx_lm
from tests.parts.architectures.layers import FULL, SLIDING
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, LONG, TOKENS, Tensors, checkpoint
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import Q4, Q8, dequantize, named, quantize, section

GEMMA: dict[str, Any] = {  # all that some Gemma 4 has
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "num_hidden_layers": 4,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "sliding_window": 9,
    "head_dim": 32,
    "global_head_dim": 64,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 310,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
    "final_logit_softcapping": 30.0,
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    },
}


def floats() -> Tensors:
    weights = checkpoints.floats(**GEMMA)
    del weights["lm_head.weight"]
    for name in weights:
        if name.endswith("q_norm.weight"):
            weights[name] = weights[name] / 4  # nothing else keeps scores small
    return weights


def mixed(path: str) -> Quantization:
    """Every mode and several widths in one model."""
    kinds = {
        "embed_tokens": Q8,
        "embed_tokens_per_layer": Q4,
        "per_layer_model_projection": FLOAT_MODES["nvfp4"],
        "per_layer_input_gate": FLOAT_MODES["mxfp8"],
        "per_layer_projection": Quantization(32, 5, "affine"),
        "q_proj": Quantization(128, 6, "affine"),
        "k_proj": Quantization(32, 3, "affine"),
        "v_proj": Q8,
        "o_proj": Q4,
        "proj": Q8,  # the router's
        "gate_proj": FLOAT_MODES["mxfp4"],
        "up_proj": FLOAT_MODES["mxfp4"],
        "down_proj": Quantization(32, 4, "affine") if ".experts." in path else FLOAT_MODES["nvfp4"],
    }
    return kinds[path.rpartition(".")[2]]


def both(how: Callable[[str], Quantization]) -> tuple[Tensors, Tensors]:
    """A checkpoint with every matrix quantized, and one of the floats that it stands for."""
    packed: Tensors = {}
    plain: Tensors = {}
    for name, array in floats().items():
        path = name.removesuffix(".weight")
        if array.ndim < 2:
            packed[name] = plain[name] = array
        else:
            parts = quantize(array, how(path))
            packed |= named(path, parts)
            plain[name] = dequantize(parts, how(path))
    return packed, plain


def as_mlx_lm_has_it(tensors: Tensors) -> Tensors:
    return {name.replace(".experts.", ".experts.switch_glu."): array for name, array in tensors.items()}


def as_a_host_has_it(tensors: Tensors) -> Tensors:
    """Experts under names without `.weight`, gate and up in one tensor; the rest spelled as everywhere there."""
    spelled: Tensors = {}
    for name, array in tensors.items():
        target = name.replace("model.", "model.language_model.", 1)
        if ".experts." in name:
            target = target.replace(".weight", "").replace(".scales", ".scale").replace(".biases", ".bias")
            if ".up_proj" in name:
                continue
            if ".gate_proj" in name:
                target = target.replace("gate_proj", "gate_up_proj")
                array = mx.concatenate([array, tensors[name.replace("gate_proj", "up_proj")]], axis=1)
        else:
            target = target.replace(".scales", ".weight.scale").replace(".biases", ".weight.bias")
        spelled[target] = array
    return spelled


SPELLINGS: dict[str, Callable[[Tensors], Tensors]] = {
    "ours": lambda tensors: tensors,
    "mlx-lm's": as_mlx_lm_has_it,
    "a host's": as_a_host_has_it,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_packed_and_dense_are_the_floats_that_they_stand_for(tmp_path: Path, spelling: str) -> None:
    packed, plain = both(mixed)
    expected = loaded(checkpoint(tmp_path / "plain", plain, **GEMMA)).model
    folder = checkpoint(tmp_path / "small", SPELLINGS[spelling](packed), **GEMMA)
    dense, small = loaded(folder).model, loaded(folder, packed=True).model
    matrices = {name: array.dtype for name, array in parameters(small).items() if name.endswith("weight")}
    stored = {
        re.sub(r"mlp\.(gate|up)_proj", "mlp.gate_up_proj.whole", name)
        for name, array in packed.items()
        if array.dtype == mx.uint32
    }
    assert {name for name, dtype in matrices.items() if dtype == mx.uint32} == stored
    for model in (dense, small):
        assert difference(logits(model, LONG), logits(expected, LONG)) < CLOSE


@pytest.mark.parametrize("how", [Quantization(32, 4, "affine"), Quantization(32, 8, "affine")], ids=str)
def test_a_quantized_gemma_4_gives_mlx_lms_logits(tmp_path: Path, how: Quantization) -> None:
    """Affine only: with byte scales mlx-lm's embedding is bfloat16 in a float32 model too."""
    packed, _ = both(lambda path: how)
    folder = checkpoint(tmp_path / "tiny", as_mlx_lm_has_it(packed), quantization=section(how), **GEMMA)
    expected = mlx_lm.logits(folder, TOKENS)
    assert difference(logits(loaded(folder).model, TOKENS), expected) < CLOSE
    assert difference(logits(loaded(folder, packed=True).model, TOKENS), expected) < CLOSE
