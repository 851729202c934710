"""Quantized mixtures of experts, and GLM's heads: as mlx-lm converts them, and as stores lay them down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from runner.layers.packed import PackedHeads
from runner.loading.loader import load
from runner.quantization.names import FLOAT_MODES, Quantization
from runner.store.resolve import open_model
from tests.runner.quantization.test_quantization import (
    CLOSE,
    EXPERTS,
    JSON,
    TENSOR,
    TOKENS,
    Tensors,
    add_blob,
    checkpoint,
    dequantize,
    difference,
    each_tensor,
    floats,
    loaded,
    logits,
    mlx_lm_logits,
    named,
    parameters,
    quantize,
    whole_blob,
)

GLM: dict[str, Any] = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "tie_word_embeddings": False,
    "kv_lora_rank": 128,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-6,  # at which mlx-lm and transformers agree about the norms inside attention
}
KINDS = {"qwen3_moe": EXPERTS, "glm4_moe_lite": GLM}
Q4, NVFP4 = Quantization(64, 4, "affine"), FLOAT_MODES["nvfp4"]
EVERY = [Q4, Quantization(32, 3, "affine"), *FLOAT_MODES.values()]
LONG = mx.arange(40)[None]  # so many that they are sorted by expert
FACTORS = (1.25, 0.5, 2.0, 1.0)  # one for each expert, or head

Metadata = Callable[[str, Quantization], dict[str, str]]


def same(folder: Path, expected: Path) -> None:
    """In floats and packed, for steps and chunks."""
    dense, ours, packed = loaded(expected).model, loaded(folder).model, loaded(folder, packed=True).model
    for tokens in (TOKENS[:, :1], TOKENS, LONG):
        assert difference(logits(ours, tokens), logits(dense, tokens)) < CLOSE
        assert difference(logits(packed, tokens), logits(dense, tokens)) < CLOSE


# GLM's heads.


@pytest.mark.parametrize("how", EVERY, ids=str)
def test_what_mlx_lm_quantizes_of_glm_loads_as_it_is(tmp_path: Path, how: Quantization) -> None:
    """Its heads' maps are quantized too, and stay packed."""
    from mlx.nn.layers.quantized import quantize as quantize_module
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    theirs = {name.replace(".experts.", ".switch_mlp."): array for name, array in floats(**GLM).items()}
    folder = checkpoint(tmp_path / "tiny", theirs, **GLM)
    model, _ = load_model(folder)
    quantize_module(model, how.group_size, how.bits, mode=how.mode)
    flat: Any = tree_flatten(model.parameters())
    section = {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
    checkpoint(folder, dict(flat), **GLM, quantization=section)
    expected = mlx_lm_logits(folder)
    ours: Any = loaded(folder, packed=True).model
    assert type(ours.model.layers[0].self_attn.embed_q) is PackedHeads
    assert type(ours.model.layers[0].self_attn.unembed_out) is PackedHeads
    assert difference(logits(ours), expected) < CLOSE
    assert difference(logits(loaded(folder).model), expected) < CLOSE


@pytest.mark.parametrize("how", EVERY, ids=str)
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


@pytest.mark.parametrize("how", EVERY, ids=str)
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


# Experts in a store.


def banks(weights: Tensors) -> list[str]:
    return [name.removesuffix(".weight") for name, array in weights.items() if ".experts." in name]


def layer_of(root: Path, name: str, tensors: Tensors, metadata: dict[str, str]) -> dict[str, Any]:
    scratch = root / "scratch.safetensors"
    root.mkdir(exist_ok=True)
    mx.save_safetensors(str(scratch), tensors, metadata=metadata)
    return add_blob(root, TENSOR, name, scratch.read_bytes())


def store_of(root: Path, folder: Path, layers: list[dict[str, Any]]) -> Path:
    described = [add_blob(root, JSON, path.name, path.read_bytes()) for path in folder.glob("*.json")]
    manifest = root / "manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": described + layers}))
    return root


def in_store(path: str, parts: list[mx.array], factor: str, factors: mx.array | None) -> Tensors:
    names = (f"{path}.weight", f"{path}.weight.scale", f"{path}.weight.bias")
    made = dict(zip(names, parts, strict=False))
    return made if factors is None else {**made, f"{path}.{factor}": factors}


def by_projection(group: str, how: Quantization) -> Quantization:
    """A group of mixed precision."""
    return Quantization(64, 8, "affine") if group.endswith("down_proj") and how == Q4 else how


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", ["mlp.experts", "mlp.switch_mlp", "moe.experts"])
@pytest.mark.parametrize("how", [Q4, FLOAT_MODES["mxfp4"], NVFP4], ids=str)
@pytest.mark.parametrize("blobs", ["a group", "a projection", "an expert"])
def test_experts_in_a_store_are_their_numbers(
    tmp_path: Path, kind: str, group: str, how: Quantization, blobs: str
) -> None:
    """One blob for each group with metadata for each tensor, or for each projection; an old host's groups have a
    tensor for each expert, and nothing written beside them.
    """
    config = KINDS[kind]
    plain = floats(**config)
    others = {name: array for name, array in plain.items() if ".experts." not in name}
    root = tmp_path / "store"
    layers = [layer_of(root, name, {name: array}, {}) for name, array in others.items()]
    groups: dict[str, tuple[Tensors, dict[str, str]]] = {}
    for path in banks(plain):
        its = by_projection(path, how)
        parts = quantize(plain[f"{path}.weight"], its)
        factors = mx.array(FACTORS) if how == NVFP4 else None
        numbers = dequantize(parts, its)
        plain[f"{path}.weight"] = numbers if factors is None else numbers * factors[:, None, None]
        there = path.replace("mlp.experts", group)
        bank, _, projection = there.rpartition(".")
        tensors, metadata = groups.setdefault(there if blobs == "a projection" else bank, ({}, {}))
        if blobs == "an expert":
            for i in range(4):
                factor = None if factors is None else factors[i]
                one = f"{bank}.{i}.{projection}"
                tensors |= in_store(one, [part[i] for part in parts], "weight_scale_2", factor)
        else:
            tensors |= in_store(there, parts, "weight.global_scale", factors)
            describe: Metadata = whole_blob if blobs == "a projection" else each_tensor
            metadata |= describe(there, its)
    layers += [layer_of(root, name, *parts_of) for name, parts_of in groups.items()]
    folder = checkpoint(tmp_path / "plain", plain, **config)
    store = store_of(root, folder, layers)
    dense = loaded(folder).model
    for keep in (False, True):
        model = load(open_model("tiny", store), lambda share: None, packed=keep).model
        if keep:
            assert parameters(model)["model.layers.1.mlp.experts.up_proj.weight"].dtype == mx.uint32
        for tokens in (TOKENS, LONG):
            assert difference(logits(model, tokens), logits(dense, tokens)) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [".scales", ".biases"])
def test_experts_of_which_one_lacks_a_part_are_refused(tmp_path: Path, kind: str, missing: str) -> None:
    tensors = floats(**KINDS[kind])
    for path in banks(tensors):
        parts = named("", quantize(tensors.pop(f"{path}.weight"), Q4))
        bank, _, projection = path.rpartition(".")
        tensors |= {f"{bank}.{i}.{projection}{end}": part[i] for end, part in parts.items() for i in range(4)}
    del tensors[f"model.layers.1.mlp.experts.2.up_proj{missing}"]
    folder = checkpoint(tmp_path / "tiny", tensors, **KINDS[kind])
    with pytest.raises(BadModelFiles, match=rf"experts\.up_proj\{missing}: there are tensors of 3 experts"):
        loaded(folder)
