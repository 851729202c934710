"""Mixtures of experts: stacked, turned and taken apart before they are quantized."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from runner.quantization.settings import KINDS
from runner.store.safetensors_header import read_header
from tests.parts.arrays import difference
from tests.parts.checkpoints import CLOSE, EXPERTS, GPT_OSS, TOKENS, Tensors, checkpoint, floats, one_by_one
from tests.parts.models import loaded, logits
from tests.parts.policy import rounded
from tests.parts.stores import bring_in, layers

GROUP = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("kind", [None, "int4", "mxfp4"])
@pytest.mark.parametrize("apart", [True, False])
def test_experts_are_stacked_and_quantized(tmp_path: Path, kind: str | None, apart: bool) -> None:
    weights = floats(**EXPERTS)
    tensors = one_by_one(weights) if apart else weights
    bring_in(checkpoint(tmp_path / "floats", tensors, **EXPERTS), tmp_path, kind)
    numbers = rounded(weights, kind) if kind else weights
    expected = logits(loaded(checkpoint(tmp_path / "rounded", numbers, **EXPERTS)).model, TOKENS)
    assert mx.array_equal(logits(loaded("tiny", tmp_path).model, TOKENS), expected)
    assert difference(logits(loaded("tiny", tmp_path, packed=True).model, TOKENS), expected) < CLOSE
    of_one_kind = apart and kind != "int4"
    apiece = {f"{GROUP}.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
    assert {name for name in layers(tmp_path) if name.startswith(GROUP)} == (
        {GROUP} if of_one_kind else apiece
    )
    if of_one_kind and kind:
        header = read_header(layers(tmp_path)[GROUP], GROUP)
        assert header.metadata == {"quant_type": kind, "group_size": "32"}
        assert {tensor.name for tensor in header.tensors} == apiece | {f"{name}.scale" for name in apiece}


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
    expected = logits(loaded(folder).model, TOKENS)
    bring_in(folder, tmp_path)
    assert mx.array_equal(logits(loaded("tiny", tmp_path).model, TOKENS), expected)
    bring_in(folder, tmp_path, kind)
    numbers = as_published(rounded(weights, kind))
    expected = logits(loaded(checkpoint(tmp_path / "rounded", numbers, **GPT_OSS)).model, TOKENS)
    assert mx.array_equal(logits(loaded("tiny", tmp_path).model, TOKENS), expected)
    assert difference(logits(loaded("tiny", tmp_path, packed=True).model, TOKENS), expected) < CLOSE


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
    expected = logits(loaded(checkpoint(tmp_path / "rounded", rounded(weights, kind), **wide)).model, TOKENS)
    assert mx.array_equal(logits(loaded("tiny", tmp_path).model, TOKENS), expected)
    assert difference(logits(loaded("tiny", tmp_path, packed=True).model, TOKENS), expected) < CLOSE
