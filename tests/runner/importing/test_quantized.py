"""`import --quantize` and the import of what is quantized already: the blobs, and the model that they are."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from api.commands import importing
from runner.errors import BadModelFiles, LoadError, UnsupportedModel
from runner.importing import planning
from runner.importing.importer import Summary, import_directory
from runner.importing.plan import Item, Turned
from runner.loading.description import describe
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.quantization.make import AT_ONCE, DTYPES, quantize
from runner.quantization.names import FLOAT_MODES, KINDS, Quantization
from runner.quantization.policy import kind_of
from runner.store import names
from runner.store.names import Name
from runner.store.resolve import open_model
from runner.store.safetensors_header import read_header
from tests.parts.processes import EXIT_S, START_S, wait_until
from tests.runner.quantization.test_quantization import (
    CLOSE,
    EXPERTS,
    Q4,
    Tensors,
    checkpoint,
    converted,
    dequantize,
    difference,
    floats,
    in_mlx_spelling,
    in_store_spelling,
    loaded,
    logits,
    mixed,
)
from tests.runner.quantization.test_quantization import quantize as quantized

EIGHT = {"int4": "int8", "int8": "int8", "mxfp4": "mxfp8", "mxfp8": "mxfp8", "nvfp4": "mxfp8"}
UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


def quiet(done: int, total: int, tensor: str) -> None:
    """No progress is shown."""


def tiny_name() -> Name:
    parsed = names.parse("tiny")
    assert parsed is not None
    return parsed


def bring_in(folder: Path, store: Path, kind: str | None = None) -> Summary:
    return import_directory(folder, tiny_name(), store, None, quiet, kind=kind, quantize=quantize)


def from_store(store: Path, packed: bool = False) -> LoadedModel:
    return load(open_model("tiny", store), lambda share: None, packed=packed)


def layers(store: Path) -> dict[str, Path]:
    """Layer name -> blob."""
    manifest = json.loads((store / "manifests/registry.ollama.ai/library/tiny/latest").read_text())
    return {
        layer["name"]: store / "blobs" / layer["digest"].replace(":", "-")
        for layer in manifest["layers"]
        if "name" in layer
    }


def host_config(store: Path) -> dict[str, Any]:
    manifest = json.loads((store / "manifests/registry.ollama.ai/library/tiny/latest").read_text())
    config: dict[str, Any] = json.loads(
        (store / "blobs" / manifest["config"]["digest"].replace(":", "-")).read_text()
    )
    return config


def by_hand(name: str, shape: tuple[int, ...], kind: str) -> str | None:
    """The rule for the models of these tests, written down once more."""
    last = name.removesuffix(".weight").rpartition(".")[2]
    if last in ("q_proj", "o_proj", "gate_proj", "up_proj"):
        return kind
    experts = len(shape) == 3
    if last in ("k_proj", "v_proj", "lm_head") or (last == "down_proj" and not (experts and kind != "int4")):
        return EIGHT[kind]
    return kind if last == "down_proj" else None


def rounded(weights: Tensors, kind: str) -> Tensors:
    """Floats that have been through MLX's own quantization and back."""
    made = {}
    for name, array in weights.items():
        chosen = by_hand(name, array.shape, kind)
        if "embed_tokens" in name and "lm_head.weight" not in weights:
            chosen = EIGHT[kind]
        how = KINDS[chosen] if chosen else None
        made[name] = dequantize(quantized(array, how), how) if how else array
    return made


# Float models.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_import_is_the_model_of_mlxs_own_rounding(tmp_path: Path, kind: str, tied: bool) -> None:
    weights = floats(tie_word_embeddings=tied)
    bring_in(checkpoint(tmp_path / "floats", weights, tie_word_embeddings=tied), tmp_path, kind)
    folder = checkpoint(tmp_path / "rounded", rounded(weights, kind), tie_word_embeddings=tied)
    expected = logits(loaded(folder).model)
    assert mx.array_equal(logits(from_store(tmp_path).model), expected)
    assert difference(logits(from_store(tmp_path, packed=True).model), expected) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_blob_is_what_a_host_writes(tmp_path: Path, kind: str) -> None:
    halves = {name: array.astype(mx.bfloat16) for name, array in floats().items()}
    summary = bring_in(checkpoint(tmp_path / "floats", halves), tmp_path, kind)
    blobs = layers(tmp_path)
    for name, chosen in ((UP, kind), (DOWN, EIGHT[kind])):
        arrays, metadata = mx.load(str(blobs[name]), format="safetensors", return_metadata=True)
        assert metadata == {"quant_type": chosen, "group_size": str(KINDS[chosen].group_size)}
        parts = quantized(halves[name], KINDS[chosen])
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [None, Turned(1, 2)])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_blocks_of_a_matrix_make_the_whole(kind: str, turned: Turned | None, dtype: str) -> None:
    rows, width = 301, 1024
    assert rows * width > AT_ONCE["cpu"]
    matrix = mx.random.normal((rows, width), key=mx.random.key(0)).astype(DTYPES[dtype])
    source = matrix
    if turned:
        source = mx.stack([mx.zeros_like(matrix.T), matrix.T], axis=-1).reshape(width, 2 * rows)
    item = Item("x.weight", dtype, (4, rows, width), (), kind, turned)
    made = quantize(item, bytes(memoryview(source)))  # type: ignore[arg-type]  # not in MLX's stubs
    whole = [bytes(memoryview(part)) for part in quantized(matrix, KINDS[kind])]  # type: ignore[arg-type]
    assert list(made) == whole


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


# Mixtures of experts.

GROUP = "model.layers.0.mlp.experts"


def one_by_one(weights: Tensors) -> Tensors:
    made: Tensors = {}
    for name, array in weights.items():
        if array.ndim < 3:
            made[name] = array
            continue
        head, _, projection = name.removesuffix(".weight").rpartition(".")
        made |= {f"{head}.{i}.{projection}.weight": array[i] for i in range(array.shape[0])}
    return made


@pytest.mark.parametrize("kind", [None, "int4", "mxfp4"])
@pytest.mark.parametrize("apart", [True, False])
def test_experts_are_stacked_and_quantized(tmp_path: Path, kind: str | None, apart: bool) -> None:
    weights = floats(**EXPERTS)
    tensors = one_by_one(weights) if apart else weights
    bring_in(checkpoint(tmp_path / "floats", tensors, **EXPERTS), tmp_path, kind)
    numbers = rounded(weights, kind) if kind else weights
    expected = logits(loaded(checkpoint(tmp_path / "rounded", numbers, **EXPERTS)).model)
    assert mx.array_equal(logits(from_store(tmp_path).model), expected)
    assert difference(logits(from_store(tmp_path, packed=True).model), expected) < CLOSE
    of_one_kind = apart and kind != "int4"
    apiece = {f"{GROUP}.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
    assert {name for name in layers(tmp_path) if name.startswith(GROUP)} == (
        {GROUP} if of_one_kind else apiece
    )
    if of_one_kind and kind:
        header = read_header(layers(tmp_path)[GROUP], GROUP)
        assert header.metadata == {"quant_type": kind, "group_size": "32"}
        assert {tensor.name for tensor in header.tensors} == apiece | {f"{name}.scale" for name in apiece}


GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "head_dim": 32,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "default", "rope_theta": 10_000.0},
}


def as_published(weights: Tensors) -> Tensors:
    """gpt-oss: experts as [N,in,out], gate and up column by column in turn."""
    made = {
        name: array
        for name, array in weights.items()
        if not any(part in name for part in ("gate_proj", "up_proj", "down_proj"))
    }
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        for ending, turn in ((".weight", True), ("_bias", False)):
            gate, up, down = (
                weights[f"{at}.{part}{ending}"].swapaxes(-1, -2) if turn else weights[f"{at}.{part}{ending}"]
                for part in ("gate_proj", "up_proj", "down_proj")
            )
            both = mx.stack([gate, up], axis=-1).reshape(*gate.shape[:-1], -1)
            name = ending.removesuffix(".weight")
            made |= {f"{at}.gate_up_proj{name}": both, f"{at}.down_proj{name}": down}
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_gpt_oss_is_turned_before_it_is_quantized(tmp_path: Path, kind: str) -> None:
    """Its rows are inputs, and groups are not made across inputs; that 512 columns would divide is a trap."""
    weights = floats(**GPT_OSS)
    folder = checkpoint(tmp_path / "floats", as_published(weights), **GPT_OSS)
    expected = logits(loaded(folder).model)
    bring_in(folder, tmp_path)
    assert mx.array_equal(logits(from_store(tmp_path).model), expected)
    bring_in(folder, tmp_path, kind)
    numbers = as_published(rounded(weights, kind))
    expected = logits(loaded(checkpoint(tmp_path / "rounded", numbers, **GPT_OSS)).model)
    assert mx.array_equal(logits(from_store(tmp_path).model), expected)
    assert difference(logits(from_store(tmp_path, packed=True).model), expected) < CLOSE


@pytest.mark.parametrize("kind", ["int4", "nvfp4"])
def test_gate_and_up_in_one_tensor_are_taken_apart(tmp_path: Path, kind: str) -> None:
    """[N,2*F,E], as newer transformers writes them."""
    wide = EXPERTS | {"moe_intermediate_size": 192}
    weights = floats(**wide)
    tensors = {name: array for name, array in weights.items() if array.ndim < 3}
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        both = [weights[f"{at}.{part}.weight"] for part in ("gate_proj", "up_proj")]
        tensors[f"{at}.gate_up_proj"] = mx.concatenate(both, axis=1)
        tensors[f"{at}.down_proj"] = weights[f"{at}.down_proj.weight"]
    bring_in(checkpoint(tmp_path / "floats", tensors, **wide), tmp_path, kind)
    expected = logits(loaded(checkpoint(tmp_path / "rounded", rounded(weights, kind), **wide)).model)
    assert mx.array_equal(logits(from_store(tmp_path).model), expected)
    assert difference(logits(from_store(tmp_path, packed=True).model), expected) < CLOSE


# Models that are quantized already.


@pytest.mark.parametrize("stored", [False, True])
def test_a_quantized_model_is_imported_as_it_is(tmp_path: Path, stored: bool) -> None:
    """In either spelling; every mode and several widths, a factor too."""
    tensors = in_mlx_spelling(floats(tie_word_embeddings=False), mixed)
    tensors["model.layers.0.mlp.gate_proj.global_scale"] = mx.array(0.8)
    tensors["model.layers.0.mlp.gate_proj.input_scale"] = mx.array(0.1)  # for quantized activations
    section: dict[str, Any] = {"group_size": 64, "bits": 4}
    affine = {path: how for path in paths(tensors) if (how := mixed(path)) and how.mode == "affine"}
    section |= {path: {"group_size": how.group_size, "bits": how.bits} for path, how in affine.items()}
    spelled = {in_store_spelling(name): array for name, array in tensors.items()} if stored else tensors
    folder = checkpoint(tmp_path / "tiny", spelled, tie_word_embeddings=False, quantization=section)
    summary = bring_in(folder, tmp_path)
    for packed in (False, True):
        assert mx.array_equal(
            logits(from_store(tmp_path, packed).model), logits(loaded(folder, packed).model)
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
    section = {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: how), quantization=section)
    bring_in(folder, tmp_path)
    assert host_config(tmp_path)["file_type"] == word(how)
    assert mx.array_equal(logits(from_store(tmp_path).model), logits(loaded(folder).model))


def test_what_mlx_lm_converted_to_mixed_bits_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm")
    folder = converted(tmp_path, "bfloat16")
    summary = bring_in(folder, tmp_path)
    assert dict(summary.plan.kinds) == {"int4": 10, "int6": 3, "BF16": 7}
    assert mx.array_equal(logits(from_store(tmp_path).model), logits(loaded(folder).model))
    assert read_header(layers(tmp_path)[DOWN], DOWN).metadata == {"quant_type": "int6", "group_size": "32"}


def test_settings_that_nobody_wrote_down_are_left_to_the_shapes(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    bring_in(folder, tmp_path)
    assert read_header(layers(tmp_path)[UP], UP).metadata == {}
    assert mx.array_equal(logits(from_store(tmp_path).model), logits(loaded(folder).model))


# nvfp4 as other tools write it.


def write_raw(path: Path, tensors: dict[str, tuple[str, mx.array]]) -> None:
    """A safetensors file with types that MLX does not have."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        begin = len(data)
        data += bytes(memoryview(mx.contiguous(array)))  # type: ignore[arg-type]  # not in MLX's stubs
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def of_modelopt(
    path: str, codes: mx.array, scales: mx.array, factor: float
) -> dict[str, tuple[str, mx.array]]:
    return {
        f"{path}.weight": ("U8", codes.view(mx.uint8)),
        f"{path}.weight_scale": ("F8_E4M3", scales),
        f"{path}.weight_scale_2": ("F32", mx.array(factor)),
        f"{path}.input_scale": ("F32", mx.array(0.1)),
    }


def compressed(
    path: str, codes: mx.array, scales: mx.array, factor: float
) -> dict[str, tuple[str, mx.array]]:
    return {
        f"{path}.weight_packed": ("U8", codes.view(mx.uint8)),
        f"{path}.weight_scale": ("F8_E4M3", scales),
        f"{path}.weight_global_scale": ("F32", mx.array([1 / factor])),
        f"{path}.input_global_scale": ("F32", mx.array([0.1])),
    }


def foreign(folder: Path, tool: Any, factor: float = 0.25) -> tuple[Path, Tensors]:
    """A directory of that tool, and the numbers that it stands for."""
    how, numbers = KINDS["nvfp4"], floats()
    raw: dict[str, tuple[str, mx.array]] = {}
    for name, array in floats().items():
        if name.endswith("proj.weight"):
            parts = quantized(array, how)
            numbers[name] = dequantize(parts, how) * factor
            raw |= tool(name.removesuffix(".weight"), *parts, factor)
        else:
            raw[name] = ("F32", array)
    checkpoint(folder, {}, quantization_config={"quant_method": tool.__name__})
    write_raw(folder / "model.safetensors", raw)
    return folder, numbers


@pytest.mark.parametrize("tool", [of_modelopt, compressed])
def test_nvfp4_of_other_tools_is_imported_as_it_is(tmp_path: Path, tool: Any) -> None:
    folder, numbers = foreign(tmp_path / "foreign", tool)
    summary = bring_in(folder, tmp_path)
    expected = logits(loaded(checkpoint(tmp_path / "plain", numbers)).model)
    assert difference(logits(from_store(tmp_path).model), expected) < CLOSE
    assert difference(logits(from_store(tmp_path, packed=True).model), expected) < CLOSE
    assert host_config(tmp_path)["file_type"] == "nvfp4"
    assert summary.plan.parameters == sum(array.size for array in numbers.values())
    header = read_header(layers(tmp_path)[UP], UP)
    assert header.metadata == {"quant_type": "nvfp4", "group_size": "16"}
    assert {tensor.name for tensor in header.tensors} == {UP, f"{UP}.scale", f"{UP}.global_scale"}
    assert describe(open_model(str(folder))).matrices == {"nvfp4 (16)": 14}
    with pytest.raises(UnsupportedModel, match="quantized already"):
        bring_in(folder, tmp_path, "int4")


def test_a_scale_without_an_inverse_is_refused(tmp_path: Path) -> None:
    folder, _ = foreign(tmp_path / "foreign", compressed, float("inf"))
    with pytest.raises(BadModelFiles, match="whose inverse is needed"):
        bring_in(folder, tmp_path / "store")
    assert not (tmp_path / "store/manifests").exists()


# What is wrong is one line, and nothing is imported.


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


# The command.


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "api", "import", str(folder), "--name", "tiny", *words]


def environment(store: Path) -> dict[str, str]:
    return os.environ | {"OLLAMA_MODELS": str(store)}


def test_the_command_quantizes_and_tells_what(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", floats())
    run = command(folder, "--quantize", "mxfp4")
    done = subprocess.run(run, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("imported tiny:latest: 20 tensors (8 mxfp4, 7 mxfp8, 5 F32), ")
    assert " MB to " in done.stdout
    wrong = subprocess.run(command(folder, "--quantize", "int3"), capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "invalid choice: 'int3'" in wrong.stderr
    again = checkpoint(tmp_path / "again", in_mlx_spelling(floats(), lambda path: Q4))
    refused = subprocess.run(
        command(again, "--quantize", "int4"), env=environment(tmp_path), capture_output=True, text=True
    )
    assert refused.returncode == 4
    assert refused.stderr == "Error: the model is quantized already; --quantize takes float models\n"


@pytest.mark.parametrize(
    "words", [["show", "demo"], ["import", "DIR", "--name", "tiny", "--quantize", "int4"]]
)
def test_without_mlx_one_line_says_what_to_install(tmp_path: Path, words: list[str]) -> None:
    folder = str(checkpoint(tmp_path / "tiny", floats()))
    given = [word.replace("DIR", folder) for word in words]
    program = "import sys; sys.modules['mlx'] = None; import api.__main__ as it; it.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *given], env=environment(tmp_path), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: MLX has no backend on this machine: pip install 'mlx-runner[cpu]'")
    assert done.stderr.count("\n") == 1


class Terminal(io.StringIO):
    """Takes what a person would see."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bytes_and_the_present_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.redirect_stderr(Terminal()) as terminal:
        bar = importing.Bar()
        bar.show(0, 2_000_000, UP)
        bar.show(1_000_000, 2_000_000, DOWN)  # too soon after it to be drawn
        bar.show(2_000_000, 2_000_000, "")
    first = f"importing [{'.' * 30}] 0.0 MB of 2.0 MB {UP}"[:79]
    assert terminal.getvalue() == (f"\r{first}\x1b[K\rimporting [{'#' * 30}] 2.0 MB of 2.0 MB \x1b[K\n")
    with contextlib.redirect_stderr(io.StringIO()) as log:
        importing.Bar().show(0, 1, UP)
    assert log.getvalue() == ""


def test_help_says_what_the_kinds_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importing.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in (*KINDS, "Embeddings", "OLLAMA_MODELS", "mlx-runner show NAME"):
        assert word in text


# A small parent, since the largest memory of a process counts that of the one which it was forked from.
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_a_tensor_at_a_time_is_in_memory(big_model: Path, tmp_path: Path) -> None:
    """A gigabyte, of which the largest tensor is 64 MiB, in a process of its own."""
    run = [sys.executable, "-S", "-c", MEASURED, *command(big_model, "--quantize", "int4")]
    finished = subprocess.run(run, env=environment(tmp_path), stdout=subprocess.PIPE, check=True)
    largest = int(finished.stdout.split()[-1])
    kilobytes = largest // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 500_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_is_ended_half_way_changes_no_model(
    big_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    bring_in(checkpoint(tmp_path / "tiny", floats()), tmp_path)
    before, blobs = layers(tmp_path), tmp_path / "blobs"
    there = len(list(blobs.iterdir()))
    run = command(big_model, "--quantize", "mxfp4")
    with subprocess.Popen(run, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list(blobs.iterdir())) > there + 1, START_S, "the second blob")
        process.send_signal(number)
        _, said = process.communicate(timeout=EXIT_S)
    assert layers(tmp_path) == before
    if number is signal.SIGKILL:
        assert process.returncode == -number
        return
    assert (process.returncode, said) == (130, "interrupted: nothing was imported\n")
    assert not list(blobs.glob(".import-*"))
    assert not list(tmp_path.glob(".import-*"))
