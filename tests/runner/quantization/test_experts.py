"""Quantized mixtures of experts: in a directory, and as stores lay them down."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from runner.kernels import choice
from runner.kernels.product import PLAIN
from runner.layers import packed
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, EXPERTS, GLM, LONG, TOKENS, Tensors, checkpoint, floats
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import EVERY_MODE, Q4, dequantize, named, quantize
from tests.parts.stores import Metadata, add_tensors, each_tensor, whole_blob, write_manifest

KINDS = {"qwen3_moe": EXPERTS, "glm4_moe_lite": GLM}
NVFP4 = FLOAT_MODES["nvfp4"]
FACTORS = (1.25, 0.5, 2.0, 1.0)  # one for each expert


@pytest.mark.parametrize("how", EVERY_MODE, ids=str)
@pytest.mark.parametrize("apart", [False, True])
def test_experts_stay_packed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Quantization, apart: bool
) -> None:
    """A stack for each projection, or each expert by itself, which may have a factor by itself. Where many pairs go
    by way of floats, they find the same.
    """
    factors = FACTORS if how.mode == "nvfp4" else (1.0,) * 4
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
    for tokens in (TOKENS, LONG):
        assert difference(logits(loaded(folder).model, tokens), logits(dense, tokens)) < CLOSE
        assert difference(logits(model, tokens), logits(dense, tokens)) < CLOSE
    monkeypatch.setattr(choice, "products", lambda: PLAIN)
    monkeypatch.setattr(packed, "DENSE_FROM", 2)
    monkeypatch.setattr(mx, "gather_qmm", None)
    assert difference(logits(loaded(folder, packed=True).model, LONG), logits(dense, LONG)) < CLOSE


def banks(weights: Tensors) -> list[str]:
    return [name.removesuffix(".weight") for name, array in weights.items() if ".experts." in name]


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
    layers = [add_tensors(root, name, {name: array}, {}) for name, array in others.items()]
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
    layers += [add_tensors(root, name, *parts_of) for name, parts_of in groups.items()]
    folder = checkpoint(tmp_path / "plain", plain, **config)
    store = write_manifest(root, folder, layers)
    dense = loaded(folder).model
    for keep in (False, True):
        model = loaded("tiny", store, keep).model
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
