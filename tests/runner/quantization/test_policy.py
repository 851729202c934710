"""What an import quantizes to what."""

from __future__ import annotations

import pytest

from runner.quantization.policy import kind_of

LAYER = "model.layers.3."


@pytest.mark.parametrize(
    ("name", "shape", "asked", "kind"),
    [
        (f"{LAYER}self_attn.q_proj.weight", (64, 64), "int4", "int4"),
        (f"{LAYER}self_attn.k_proj.weight", (64, 64), "int4", "int8"),
        (f"{LAYER}self_attn.v_proj.weight", (64, 64), "nvfp4", "mxfp8"),
        (f"{LAYER}self_attn.v_proj.weight", (64, 48), "nvfp4", "nvfp4"),  # 48 is no multiple of 32
        (f"{LAYER}self_attn.v_proj.weight", (64, 48), "mxfp4", None),
        (f"{LAYER}mlp.down_proj.weight", (64, 64), "mxfp4", "mxfp8"),
        (f"{LAYER}mlp.down_proj.weight", (64, 64), "mxfp8", "mxfp8"),
        (f"{LAYER}mlp.up_proj.weight", (64, 96), "int4", None),
        (f"{LAYER}mlp.up_proj.weight", (15, 64), "int4", None),
        (f"{LAYER}mlp.up_proj.weight", (16, 64), "int4", "int4"),
        (f"{LAYER}mlp.up_proj.bias", (16, 64), "int4", None),
        (f"{LAYER}mlp.experts.down_proj.weight", (4, 64, 64), "int4", "int8"),
        (f"{LAYER}mlp.experts.down_proj.weight", (4, 64, 64), "nvfp4", "nvfp4"),
        (f"{LAYER}mlp.switch_mlp.up_proj.weight", (4, 64, 64), "mxfp4", "mxfp4"),
        (f"{LAYER}mlp.shared_experts.down_proj.weight", (64, 64), "mxfp4", "mxfp4"),
        (f"{LAYER}block_sparse_moe.experts.1.w1.weight", (64, 64), "int4", "int4"),
        (f"{LAYER}mlp.gate.weight", (64, 64), "int4", None),
        (f"{LAYER}mlp.router.weight", (64, 64), "int4", None),
        (f"{LAYER}block_sparse_moe.router.layer.weight", (64, 64), "int4", None),
        (f"{LAYER}mlp.shared_expert_gate.weight", (64, 64), "int4", None),
        (f"{LAYER}self_attn.kv_b_proj.weight", (64, 64), "int4", None),
        (f"{LAYER}linear_attn.in_proj_a.weight", (64, 64), "int8", None),
        (f"{LAYER}linear_attn.in_proj_ba.weight", (64, 64), "int4", None),
        (f"{LAYER}linear_attn.in_proj_qkv.weight", (64, 64), "int4", "int4"),
        (f"{LAYER}input_layernorm.weight", (2048,), "int4", None),
        (f"{LAYER}linear_attn.conv1d.weight", (64, 1, 64), "int4", None),
        ("model.embed_tokens.weight", (256, 64), "int4", None),
        ("lm_head.weight", (256, 64), "int4", "int8"),
        ("language_model.lm_head.weight", (256, 64), "nvfp4", "mxfp8"),
        ("lm_head.weight", (256, 48), "nvfp4", None),
        ("model.embed_tokens_per_layer.weight", (256, 64), "int4", "int8"),
        ("vision_tower.layers.0.mlp.fc1.weight", (64, 64), "int4", None),
        ("model.visual.blocks.0.mlp.fc1.weight", (64, 64), "int4", None),
        ("multi_modal_projector.linear_1.weight", (64, 64), "int4", None),
        ("audio_tower.layers.0.fc1.weight", (64, 64), "int4", None),
    ],
)
def test_what_is_quantized_to_what(name: str, shape: tuple[int, ...], asked: str, kind: str | None) -> None:
    assert kind_of(name, shape, asked) == kind


def test_an_embedding_that_is_the_head_too_is_quantized_as_a_head() -> None:
    name = "model.language_model.embed_tokens.weight"
    assert kind_of(name, (256, 64), "mxfp4", tied=True) == "mxfp8"
    assert kind_of(name, (256, 64), "mxfp4", tied=False) is None
    assert kind_of("model.visual.patch_embed.proj.weight", (256, 64), "mxfp4", tied=True) is None
