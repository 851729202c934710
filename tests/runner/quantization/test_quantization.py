"""Quantized weights: every mode against MLX's own arithmetic, every spelling against every other."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import BadModelFiles, LoadError, UnsupportedModel
from runner.layers import nn, packed
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.machine import device
from runner.quantization.collect import collect, common_spelling, unpack
from runner.quantization.names import (
    AFFINE_BITS,
    AFFINE_KERNEL_GROUPS,
    FLOAT_MODES,
    Quantization,
    declarations,
)
from runner.store.resolve import open_model
from runner.types import Done, GenerateRequest
from runner.worker import Worker
from tests.parts import tiny
from tests.parts.answer import Answer

DIMENSIONS: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
Q4 = Quantization(64, 4, "affine")
Q8 = Quantization(64, 8, "affine")
AFFINE = [Quantization(size, bits, "affine") for bits in AFFINE_BITS for size in AFFINE_KERNEL_GROUPS]
EVERY = [*AFFINE, *FLOAT_MODES.values()]
TOKENS = mx.array([[1, 2, 3, 250, 7]])
CLOSE = 1e-4  # between ways to compute the same logits, which are up to 8 large

Tensors = dict[str, mx.array]


def quantize(matrix: mx.array, how: Quantization) -> list[mx.array]:
    return list(mx.quantize(matrix, how.group_size, how.bits, mode=how.mode))


def dequantize(parts: list[mx.array], how: Quantization) -> mx.array:
    """MLX's own, the reference."""
    codes, scales, *biases = parts
    return mx.dequantize(
        codes,
        scales,
        biases[0] if biases else None,
        group_size=how.group_size,
        bits=how.bits,
        mode=how.mode,
        dtype=mx.float32,
    )


def in_mlx_spelling(weights: Tensors, how: Callable[[str], Quantization | None]) -> Tensors:
    """A float checkpoint quantized path by path; None leaves a matrix as it is."""
    made: Tensors = {}
    for name, array in weights.items():
        path = name.removesuffix(".weight")
        if array.ndim == 2 and (settings := how(path)):
            names = [f"{path}.weight", f"{path}.scales", f"{path}.biases"]
            made |= zip(names, quantize(array, settings), strict=False)
        else:
            made[name] = array
    return made


def in_store_spelling(name: str) -> str:
    for ours, theirs in ((".scales", ".weight.scale"), (".biases", ".weight.bias")):
        name = name.removesuffix(ours) + theirs if name.endswith(ours) else name
    return name.removesuffix(".global_scale") + ".weight.global_scale" if ".global" in name else name


def mixed(path: str) -> Quantization | None:
    """Every mode and several widths in one model; output projections stay floats."""
    kinds = {
        "embed_tokens": Q4,
        "q_proj": Q8,
        "k_proj": Quantization(32, 3, "affine"),
        "v_proj": Quantization(128, 6, "affine"),
        "o_proj": None,
        "gate_proj": FLOAT_MODES["nvfp4"],
        "up_proj": FLOAT_MODES["mxfp4"],
        "down_proj": FLOAT_MODES["mxfp8"],
        "lm_head": Quantization(32, 5, "affine"),
    }
    return kinds[path.rpartition(".")[2]]


def checkpoint(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, **config: Any) -> Path:
    tiny.write(folder, **DIMENSIONS, **config)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata=metadata or {"format": "mlx"})
    return folder


def floats(**config: Any) -> Tensors:
    return tiny.weights(tiny.CONFIG | DIMENSIONS | config)


def loaded(folder: Path, packed: bool = False) -> LoadedModel:
    return load(open_model(str(folder)), lambda share: None, packed=packed)


def logits(model: Any, tokens: mx.array = TOKENS) -> mx.array:
    made: mx.array = model.logits(model(tokens, model.make_caches()))
    return made


def difference(a: mx.array, b: mx.array) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == mx.float32
    worst = mx.max(mx.abs(a - b)).item()
    assert isinstance(worst, float)
    return worst


def mlx_lm_logits(folder: Path) -> mx.array:
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    result: mx.array = model(TOKENS)
    return result


# One matrix.


def named(path: str, parts: list[mx.array]) -> Tensors:
    return dict(zip((f"{path}.weight", f"{path}.scales", f"{path}.biases"), parts, strict=False))


class Pair(nn.Module):
    """A linear layer with a bias and an embedding."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, rows, bias=True)
        self.embedding = nn.Embedding(rows, width)


@pytest.mark.parametrize("how", EVERY, ids=str)
@pytest.mark.parametrize("factor", [None, 0.37])
def test_every_mode_equals_mlxs_arithmetic_dense_and_packed(how: Quantization, factor: float | None) -> None:
    if factor and how.mode != "nvfp4":
        return
    rows, width = 48, 384
    matrix = mx.random.normal((rows, width), key=mx.random.key(how.bits))
    parts = quantize(matrix, how)
    reference = dequantize(parts, how) * (factor or 1.0)
    tensors = named("linear", parts) | named("embedding", parts)
    if factor:
        tensors |= {f"{path}.global_scale": mx.array([factor]) for path in ("linear", "embedding")}
    shapes = {f"{path}.weight": (rows, width) for path in ("linear", "embedding")}
    found = collect(tensors, shapes, {})
    assert found["linear"].settings == found["embedding"].settings == how
    assert difference(found["linear"].dequantized(mx.float32), reference) < 1e-6

    pair: Any = Pair(rows, width)
    assert sorted(packed.replace(pair, found, dict.fromkeys(found, mx.float32))) == ["embedding", "linear"]
    pair.linear.bias = bias = mx.arange(rows, dtype=mx.float32)
    x = mx.random.normal((1, 5, width), key=mx.random.key(1))
    assert difference(pair.linear(x), x @ reference.T + bias) < 1e-4
    assert difference(pair.embedding(TOKENS[:, :3]), reference[TOKENS[:, :3]]) < 1e-6
    assert difference(pair.embedding.as_linear(x), x @ reference.T) < 1e-4


def pack(codes: list[int], bits: int) -> mx.array:
    """One row of codes as a stream of bits, the lowest first: the format written down once more."""
    stream = sum(code << (bits * i) for i, code in enumerate(codes))
    words = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(len(codes) * bits // 32)]
    return mx.array([words], mx.uint32)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(AFFINE_BITS), st.integers(1, 4), st.randoms(use_true_random=False))
def test_unpacking_gives_back_the_codes(bits: int, blocks: int, random: Any) -> None:
    codes = [random.randrange(1 << bits) for _ in range(32 * blocks)]
    assert unpack(pack(codes, bits), bits).tolist() == [codes]


@pytest.mark.parametrize("bits", AFFINE_BITS)
@pytest.mark.parametrize("size", [8, 16, 48, 96, 192, 384])
def test_group_sizes_without_a_kernel_are_dequantized_by_plain_operations(bits: int, size: int) -> None:
    rows, width = 4, 384
    codes = mx.random.randint(0, 1 << bits, (rows, width), key=mx.random.key(bits))
    scales, biases = mx.random.normal((2, rows, width // size), key=mx.random.key(size))
    weight = mx.concatenate([pack(row, bits) for row in codes.tolist()])  # type: ignore[union-attr, arg-type, unused-ignore]
    found = collect(named("linear", [weight, scales, biases]), {"linear.weight": (rows, width)}, {})
    grouped = codes.reshape(rows, -1, size).astype(mx.float32)
    expected = (grouped * scales[..., None] + biases[..., None]).reshape(rows, width)
    assert difference(found["linear"].dequantized(mx.float32), expected) < 1e-6
    assert packed.replace(Pair(rows, width), found, {}) == []


@pytest.mark.parametrize("how", AFFINE, ids=str)
def test_the_twin_of_the_kernel_agrees_with_it(how: Quantization) -> None:
    parts = quantize(mx.random.normal((8, 384), key=mx.random.key(3)), how)
    codes = unpack(parts[0], how.bits).reshape(8, -1, how.group_size).astype(mx.float32)
    ours = (codes * parts[1][..., None] + parts[2][..., None]).reshape(8, 384)
    assert difference(ours, dequantize(parts, how)) < 1e-6


def test_a_stack_of_matrices_may_have_a_factor_each() -> None:
    how = FLOAT_MODES["nvfp4"]
    parts = quantize(mx.random.normal((3, 8, 64), key=mx.random.key(0)), how)
    tensors = named("experts", parts) | {"experts.global_scale": mx.array([1.0, 2.0, 0.5])}
    found = collect(tensors, {"experts.weight": (3, 8, 64)}, {})["experts"]
    expected = dequantize(parts, how) * mx.array([1.0, 2.0, 0.5])[:, None, None]
    assert difference(found.dequantized(mx.float32), expected) < 1e-6


# Whole models.


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
    expected = logits(loaded(plain).model)
    assert difference(logits(loaded(small).model), expected) < CLOSE
    assert difference(logits(loaded(small, packed=True).model), expected) < CLOSE


@pytest.mark.parametrize("how", [Q4, Quantization(32, 5, "affine"), *FLOAT_MODES.values()], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_a_checkpoint_of_one_mode_gives_mlx_lms_logits(
    tmp_path: Path, how: Quantization, packed: bool
) -> None:
    section = {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
    tensors = in_mlx_spelling(floats(), lambda path: how)
    folder = checkpoint(tmp_path / "tiny", tensors, quantization=section, quantization_config=section)
    assert difference(logits(loaded(folder, packed).model), mlx_lm_logits(folder)) < CLOSE


def converted(tmp_path: Path, dtype: str) -> Path:
    """Mixed bits, by mlx-lm's own hand."""
    from mlx_lm.convert import convert

    def predicate(path: str, module: Any, config: Any = None) -> bool | dict[str, Any]:
        if "o_proj" in path:
            return False
        return {"group_size": 32, "bits": 6} if "down" in path or "embed" in path else True

    source = checkpoint(tmp_path / "source", floats())
    target = tmp_path / "converted"
    convert(
        str(source),
        str(target),
        quantize=True,
        q_group_size=64,
        q_bits=4,
        quant_predicate=predicate,
        dtype=dtype,
    )
    return target


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_mlx_lm_converts_to_mixed_bits_loads_as_it_is(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("mlx_lm")
    folder = converted(tmp_path, dtype)
    section = json.loads((folder / "config.json").read_text())["quantization"]
    assert section["bits"] == 4
    assert section["model.layers.0.mlp.down_proj"]["bits"] == 6
    expected = mlx_lm_logits(folder)
    assert difference(logits(loaded(folder).model), expected) < CLOSE
    assert difference(logits(loaded(folder, packed=True).model), expected) < CLOSE


EXPERTS: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}


@pytest.mark.parametrize("how", [Q4, Quantization(32, 3, "affine"), *FLOAT_MODES.values()], ids=str)
@pytest.mark.parametrize("apart", [False, True])
def test_experts_stay_packed_too(tmp_path: Path, how: Quantization, apart: bool) -> None:
    """A stack for each projection, or each expert by itself, which may have a factor by itself."""
    factors = (1.25, 0.5, 2.0, 1.0) if how.mode == "nvfp4" else (1.0,) * 4
    plain: Tensors = {}
    small: Tensors = {}
    for name, array in floats(**EXPERTS).items():
        path = name.removesuffix(".weight")
        if array.ndim < 3:
            plain[name] = small[name] = array
            continue
        parts = quantize(array, how)
        plain[name] = dequantize(parts, how) * mx.array(factors)[:, None, None]
        tensors = named("", parts)
        if how.mode == "nvfp4":
            tensors[".global_scale"] = mx.array(factors)
        for ending, part in tensors.items():
            if apart:
                head, _, projection = path.rpartition(".")
                small |= {f"{head}.{i}.{projection}{ending}": part[i] for i in range(len(factors))}
            else:
                small[path + ending] = part
    dense = loaded(checkpoint(tmp_path / "plain", plain, **EXPERTS)).model
    folder = checkpoint(tmp_path / "small", small, **EXPERTS)
    model = loaded(folder, packed=True).model
    assert parameters(model)["model.layers.0.mlp.experts.up_proj.weight"].dtype == mx.uint32
    for tokens in (TOKENS, mx.arange(40)[None]):  # so many that they are sorted by expert
        assert difference(logits(loaded(folder).model, tokens), logits(dense, tokens)) < CLOSE
        assert difference(logits(model, tokens), logits(dense, tokens)) < CLOSE


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
    ("architecture", "kind", "projections"),
    [
        ("Qwen3NextForCausalLM", "qwen3_next", {"in_proj_qkvz", "in_proj_ba", "out_proj"}),
        (
            "Qwen3_5ForCausalLM",
            "qwen3_5",
            {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"},
        ),
    ],
)
@pytest.mark.parametrize("how", [Quantization(32, 4, "affine"), FLOAT_MODES["mxfp4"]], ids=str)
def test_projections_of_linear_attention_stay_packed_too(
    tmp_path: Path, architecture: str, kind: str, projections: set[str], how: Quantization
) -> None:
    config = HYBRID | {"architectures": [architecture], "model_type": kind}
    section = {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
    tensors = in_mlx_spelling(floats(**config), lambda path: how)
    folder = checkpoint(tmp_path / "tiny", tensors, **config, quantization=section)
    model = loaded(folder, packed=True).model
    path = "model.layers.0.linear_attn."
    packed = {name for name in parameters(model) if name.startswith(path) and name.endswith(".scales")}
    assert packed == {f"{path}{projection}.scales" for projection in projections}
    expected = mlx_lm_logits(folder)
    assert difference(logits(loaded(folder).model), expected) < CLOSE
    assert difference(logits(model), expected) < CLOSE


STORE_TYPES = {"affine": "int{bits}", "mxfp4": "MXFP4", "mxfp8": "mxfp8", "nvfp4": "NVFP4"}
TENSOR, JSON = "application/vnd.ollama.image.tensor", "application/vnd.ollama.image.json"


def add_blob(root: Path, media_type: str, name: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / f"blobs/sha256-{digest}").write_bytes(data)
    return {"mediaType": media_type, "name": name, "digest": f"sha256:{digest}", "size": len(data)}


def in_a_store(
    root: Path, folder: Path, tensors: Tensors, metadata: Callable[[str, Quantization], dict[str, str]]
) -> Path:
    """The same tensors as a host lays them down: a blob for each matrix with all that belongs to it."""
    layers = [
        add_blob(root, JSON, path.name, path.read_bytes())
        for path in folder.iterdir()
        if path.suffix == ".json"
    ]
    companions = (".scales", ".biases", ".global_scale")
    for name in tensors:
        if name.endswith(companions):
            continue
        path = name.removesuffix(".weight")
        group = [name, *(path + ending for ending in companions if path + ending in tensors)]
        written = metadata(path, how) if len(group) > 1 and (how := mixed(path)) else {}
        scratch = root / "scratch.safetensors"
        mx.save_safetensors(
            str(scratch), {in_store_spelling(part): tensors[part] for part in group}, metadata=written
        )
        layers.append(add_blob(root, TENSOR, name, scratch.read_bytes()))
    manifest = root / "manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return root


def whole_blob(path: str, how: Quantization) -> dict[str, str]:
    kind = STORE_TYPES[how.mode].format(bits=how.bits)
    return {"quant_type": kind, "group_size": str(how.group_size)}


def each_tensor(path: str, how: Quantization) -> dict[str, str]:
    own = {f"{path}.weight.{key}": value for key, value in whole_blob(path, how).items()}
    return own | {"quant_type": "int2", "group_size": "16"}  # which the tensor's own entries overrule


METADATA = {"none": lambda path, how: {}, "of the blob": whole_blob, "of each tensor": each_tensor}


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_weights_through_the_store_give_the_same_logits(
    tmp_path: Path, metadata: str, packed: bool
) -> None:
    tensors = in_mlx_spelling(floats(tie_word_embeddings=False), mixed)
    tensors["model.layers.0.mlp.gate_proj.global_scale"] = mx.array(0.8)
    folder = checkpoint(tmp_path / "tiny", tensors, tie_word_embeddings=False)
    store = in_a_store(tmp_path / "store", folder, tensors, METADATA[metadata])
    there = load(open_model("tiny", store), lambda share: None, packed=packed)
    assert mx.array_equal(logits(there.model), logits(loaded(folder, packed).model))


def test_a_store_that_kept_another_tools_config_is_loaded_by_its_tensors(tmp_path: Path) -> None:
    """An import converts the tensors and copies config.json as it was."""
    tensors = in_mlx_spelling(floats(), mixed)
    folder = checkpoint(tmp_path / "tiny", tensors, quantization_config={"quant_method": "modelopt"})
    store = in_a_store(tmp_path / "store", folder, tensors, whole_blob)
    assert load(open_model("tiny", store), lambda share: None).name == "tiny:latest"


@pytest.mark.parametrize("factor", ["weight.global_scale", "weight_scale_2", "global_scale"])
def test_every_name_of_the_global_scale_is_understood(factor: str) -> None:
    tensors = {"x.weight": TOKENS, "x.weight.scale": TOKENS, f"x.{factor}": TOKENS, "x.input_scale": TOKENS}
    assert set(common_spelling(tensors)) == {"x.weight", "x.scales", "x.global_scale"}


def test_a_real_bias_stays_a_bias_in_both_spellings(tmp_path: Path) -> None:
    weights = floats(attention_bias=True)
    tensors = in_mlx_spelling(weights, lambda path: Q4)
    stored = {in_store_spelling(name): array for name, array in tensors.items()}
    assert "model.layers.0.self_attn.q_proj.weight.bias" in stored
    assert "model.layers.0.self_attn.q_proj.bias" in stored
    one = checkpoint(tmp_path / "one", tensors, attention_bias=True)
    other = checkpoint(tmp_path / "other", stored, attention_bias=True)
    for keep in (False, True):
        assert mx.array_equal(logits(loaded(one, keep).model), logits(loaded(other, keep).model))
    assert difference(logits(loaded(one).model), mlx_lm_logits_of(one)) < CLOSE


def mlx_lm_logits_of(folder: Path) -> mx.array:
    """mlx-lm wants to be told what we see for ourselves."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization": {"group_size": 64, "bits": 4}}))
    return mlx_lm_logits(folder)


# What is done with them.


def parameters(model: Any) -> dict[str, mx.array]:
    from mlx.utils import tree_flatten

    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


def said(caplog: pytest.LogCaptureFixture) -> Any:
    records = [record for record in caplog.records if record.getMessage() == "Quantized weights"]
    assert len(records) == 1
    return records[0]


def test_on_a_cpu_they_become_floats_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    with caplog.at_level(logging.INFO):
        model = loaded(folder).model
    assert {array.dtype for array in parameters(model).values()} == {mx.float32}
    record = said(caplog)
    assert record.stored == "15 affine 4 bits by 64"
    assert (record.packed, record.dequantized, record.reason) == (0, 15, "faster as float32 on a CPU")


def test_what_would_not_fit_into_memory_stays_packed_and_the_line_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    monkeypatch.setattr(device, "memory_total", lambda: 1_000_000)
    with caplog.at_level(logging.INFO):
        model = loaded(folder).model
    assert parameters(model)["model.embed_tokens.weight"].dtype == mx.uint32
    assert said(caplog).packed == 15
    assert said(caplog).reason.endswith("bytes as floats, limit 600000")


def test_a_worker_that_was_told_so_keeps_them_packed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), mixed))
    worker = Worker(1, lambda reason: None, packed=True)
    worker.start()
    with caplog.at_level(logging.INFO):
        worker.load(str(folder)).result(20)
    answer = Answer()
    worker.generate(GenerateRequest("hello", 3), answer)
    assert isinstance(answer.end(), Done)
    worker.stop()
    assert worker.join(20)
    assert (said(caplog).packed, said(caplog).dequantized, said(caplog).reason) == (13, 0, "asked for")


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_off_the_cpu_half_types_stay_what_they_are(
    tmp_path: Path, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "kind", lambda: "cuda")
    halves = {name: array.astype(dtype) for name, array in floats().items()}
    model = loaded(checkpoint(tmp_path / "tiny", in_mlx_spelling(halves, mixed))).model
    kinds = {array.dtype for array in parameters(model).values()}
    assert kinds == {dtype, mx.uint32, mx.uint8}
    assert logits(model).dtype == dtype


def test_memory_is_that_of_the_machine_or_less() -> None:
    assert 2**26 < device.memory_total() < 2**50


def test_a_float_model_logs_nothing_of_the_kind(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loaded(tiny_model)
    assert not [record for record in caplog.records if record.getMessage() == "Quantized weights"]


# What is wrong is one line.

UP = "model.layers.0.mlp.up_proj"


def refusal(folder: Path, kind: type[LoadError] = BadModelFiles) -> str:
    with pytest.raises(kind) as caught:
        loaded(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) not in message
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{UP}.weight": None}, f"{UP}.scales without {UP}.weight"),
        ({f"{UP}.scales": None}, f"{UP}.biases without {UP}.scales"),
        (
            {f"{UP}.scales": None, f"{UP}.biases": None},
            f"{UP}.weight is packed (uint32), but there are no scales for it",
        ),
        ({f"{UP}.biases": None}, f"{UP}.weight: affine 4 bits by 64 needs biases"),
        (
            {f"{UP}.biases": mx.zeros((256, 4))},
            f"{UP}.biases float32 (256, 4) do not fit scales float32 (256, 2)",
        ),
        (
            {f"{UP}.weight": mx.zeros((256, 128))},
            f"{UP}.weight has scales, but it is float32 (256, 128), expected uint32",
        ),
        (
            {f"{UP}.weight": mx.zeros((256, 15), mx.uint32)},
            f"{UP}.weight: packed uint32 (256, 15) with scales float32 (256, 2) cannot stand for (256, 128)",
        ),
        (
            {f"{UP}.scales": mx.zeros((255, 2))},
            f"{UP}.weight: packed uint32 (256, 16) with scales float32 (255, 2) cannot stand for (256, 128)",
        ),
        (
            {f"{UP}.weight": mx.zeros((256, 28), mx.uint32)},
            f"{UP}.weight: 7 bits, expected one of 2, 3, 4, 5, 6, 8",
        ),
        (
            {f"{UP}.scales": mx.zeros((256, 2), mx.uint8)},
            f"{UP}.weight: no mode has byte scales with 4 bits by 64",
        ),
        (
            {f"{UP}.scales": mx.zeros((256, 2), mx.int32)},
            f"{UP}.weight: scales are int32 (256, 2), expected floats or uint8",
        ),
        (
            {f"{UP}.scales": mx.zeros((256, 4), mx.uint8)},
            f"{UP}.weight: mxfp4 4 bits by 32 has no biases",
        ),
        (
            {f"{UP}.global_scale": mx.array(1.0)},
            f"{UP}.global_scale float32 () does not fit {UP}.weight: affine 4 bits by 64",
        ),
        ({f"{UP}.weight.scale": mx.zeros(1)}, f"tensor {UP}.scales is there twice, in two spellings"),
        (
            {"model.norm.scales": mx.zeros(1)},
            "model.norm.weight has scales, but it is float32 (128,), expected uint32",
        ),
    ],
)
def test_parts_that_do_not_fit_are_one_line_with_the_tensors_name(
    tmp_path: Path, change: dict[str, mx.array | None], message: str
) -> None:
    tensors: dict[str, mx.array | None] = {**in_mlx_spelling(floats(), lambda path: Q4), **change}
    kept = {name: array for name, array in tensors.items() if array is not None}
    assert refusal(checkpoint(tmp_path / "tiny", kept)) == message


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"quant_type": "int8", "group_size": "64"},
            "metadata of {path}.weight: bits is 8, but {path}.weight is stored as affine 4 bits by 64",
        ),
        (
            {"{path}.weight.quant_type": "int4", "{path}.weight.group_size": "32"},
            "metadata of {path}.weight: group_size is 32, but {path}.weight is stored as affine 4 bits by 64",
        ),
        (
            {"quant_type": "nvfp4"},
            "metadata of {path}.weight: mode is nvfp4, but {path}.weight is stored as affine 4 bits by 64",
        ),
        (
            {"quant_type": "int4", "group_size": "-1"},
            "metadata of {path}.weight: group_size is '-1', expected a positive integer",
        ),
    ],
)
def test_metadata_that_contradicts_the_shapes_is_named(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    path = "model.embed_tokens"
    tensors = in_mlx_spelling(floats(), lambda at: Q4 if at == path else None)
    written = {key.format(path=path): value for key, value in metadata.items()}
    assert refusal(checkpoint(tmp_path / "tiny", tensors, written)) == message.format(path=path)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model."])
def test_what_a_multimodal_checkpoint_declares_is_found_under_the_models_path(prefix: str) -> None:
    entry = {"group_size": 32, "bits": 8}
    declared = declarations({"quantization": {f"{prefix}layers.0.mlp.up_proj": entry, "bits": 4}}, [])
    assert (declared[UP].group_size, declared[UP].bits, declared[UP].mode) == (32, 8, "affine")


def test_an_unknown_type_in_metadata_is_unsupported(tmp_path: Path) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: Q4 if path == UP else None)
    folder = checkpoint(tmp_path / "tiny", tensors, {"quant_type": "int7"})
    assert refusal(folder, UnsupportedModel) == f"metadata of {UP}.weight: unknown quant_type 'int7'"


def test_a_paths_entry_in_the_config_must_agree_but_the_defaults_need_not(tmp_path: Path) -> None:
    tensors = in_mlx_spelling(floats(), lambda path: Q4)
    section: dict[str, Any] = {"group_size": 32, "bits": 8}
    loaded(checkpoint(tmp_path / "defaults", tensors, quantization=section))
    section[UP] = {"group_size": 64, "bits": 6}
    folder = checkpoint(tmp_path / "entry", tensors, quantization=section)
    assert refusal(folder) == (
        f"config.json: quantization of {UP}: bits is 6, but {UP}.weight is stored as affine 4 bits by 64"
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_other_tools_layouts_are_refused_by_name(tmp_path: Path, method: str) -> None:
    folder = checkpoint(tmp_path / "tiny", floats(), quantization_config={"quant_method": method})
    message = f"quantization method '{method}' is not supported: give a checkpoint for MLX"
    assert refusal(folder, UnsupportedModel) == message


def test_a_quantization_that_is_no_object_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", floats(), quantization=[4])
    assert refusal(folder) == "config.json: quantization is a list, expected an object"
