"""Bringing weights into memory: layer by layer, in an order, with little held twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.kernels import by_inputs
from runner.loading import evaluation
from runner.loading.evaluation import evaluate
from runner.loading.loader import load
from runner.machine import device, memory
from runner.quantization.settings import FLOAT_MODES, Quantization
from runner.store.resolve import open_model
from tests.parts import tiny
from tests.parts.checkpoints import Tensors, one_by_one
from tests.parts.models import parameters
from tests.parts.quantized import Q4, named, quantize

MB = 1_000_000
MOST = 1.15  # of the final size, at any moment
ELSEWHERE = MB // 2  # norms, masks, a tokenizer's table: whatever does not grow with a model


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[mx.array]]:
    """What is evaluated at once, in its order."""
    seen: list[list[mx.array]] = []
    whole = mx.eval

    def watched(group: list[mx.array]) -> None:
        seen.append(group)
        whole(group)

    monkeypatch.setattr(mx, "eval", watched)
    return seen


def zeros(*names: str, size: int = 1) -> Tensors:
    return {name: mx.zeros(size) for name in names}


def names_in(weights: Tensors, steps: list[list[mx.array]]) -> list[list[str]]:
    of = {id(array): name for name, array in weights.items()}
    return [[of[id(array)] for array in step] for step in steps]


def test_layers_are_evaluated_in_their_order_after_what_is_in_none(
    steps: list[list[mx.array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number, not by name; files are often sorted by name. The largest of the others is first."""
    monkeypatch.setattr(evaluation, "EVALUATE_SHARE", 1)
    weights = zeros(
        "model.layers.10.b", "model.norm", "model.layers.2.z", "model.layers.2.a", "model.layers.10.a"
    )
    weights["model.embed_tokens"] = mx.zeros(9)
    evaluate(weights, lambda share: None)
    assert names_in(weights, steps) == [
        ["model.embed_tokens", "model.norm"],
        ["model.layers.2.z", "model.layers.2.a"],
        ["model.layers.10.b", "model.layers.10.a"],
    ]


def test_what_is_evaluated_at_once_is_bounded_in_bytes_and_as_a_share(
    steps: list[list[mx.array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = zeros(*(f"layers.0.{i}" for i in range(40)), size=10)
    evaluate(weights, lambda share: None)
    assert [len(step) for step in steps] == [1] * 40
    steps.clear()
    monkeypatch.setattr(evaluation, "EVALUATE_SHARE", 1 / 4)
    evaluate(weights, lambda share: None)
    assert [len(step) for step in steps] == [10] * 4
    steps.clear()
    monkeypatch.setattr(evaluation, "EVALUATE_BYTES", 7 * 40)
    evaluate(weights, lambda share: None)
    assert [len(step) for step in steps] == [7, 7, 7, 7, 7, 5]


def test_progress_is_the_share_of_bytes_and_ends_with_one() -> None:
    weights = zeros("layers.0.a", "layers.1.a", "layers.1.b") | {"layers.0.b": mx.zeros(97)}
    seen: list[float] = []
    evaluate(weights, seen.append)
    assert seen == pytest.approx([0.01, 0.98, 1.0])
    assert seen[-1] == 1.0


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[Any]:
    return [record for record in caplog.records if record.getMessage() == message]


def test_each_layer_is_a_line_for_who_debugs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        evaluate(zeros("model.layers.1.a", "model.layers.0.a", "norm"), lambda share: None)
    told = [(line.layer, line.bytes) for line in lines(caplog, "Layer loaded")]
    assert told == [("none", 4), ("model.layers.0", 4), ("model.layers.1", 4)]


def test_a_long_load_is_a_line_for_each_tenth_and_a_short_one_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = zeros(*(f"layers.{i}.a" for i in range(40)))
    with caplog.at_level(logging.INFO):
        evaluate(weights, lambda share: None)
        assert caplog.records == []
        monkeypatch.setattr(evaluation, "LINE_EVERY_S", 0.0)
        evaluate(weights, lambda share: None)
    assert [line.percent for line in lines(caplog, "Loading weights")] == [10, 20, 30, 40, 50, 60, 70, 80, 90]


# How much memory a load takes.

LLAMA: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 8,
    "vocab_size": 8_000,  # so the embedding is a fifth of it
}
MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 12,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
}
BLOCKS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 16,
    "num_local_experts": 16,
    "quantization_config": {"quant_method": "mxfp4"},
    "tie_word_embeddings": False,
}


def cast(dtype: mx.Dtype) -> Callable[[Tensors], Tensors]:
    return lambda weights: {name: array.astype(dtype) for name, array in weights.items()}


def quantized(how: Quantization) -> Callable[[Tensors], Tensors]:
    def change(weights: Tensors) -> Tensors:
        made: Tensors = {}
        for name, array in cast(mx.bfloat16)(weights).items():
            path = name.removesuffix(".weight")
            if array.ndim == 1:
                made[name] = array
                continue
            made |= named(path, quantize(array, how))
            if how.mode == "nvfp4":
                made[f"{path}.global_scale"] = mx.array([0.5])
        return made

    return change


def apart(weights: Tensors) -> Tensors:
    return one_by_one(cast(mx.bfloat16)(weights))


def in_blocks(weights: Tensors) -> Tensors:
    made: Tensors = {}
    for name, array in cast(mx.bfloat16)(weights).items():
        path, dot, last = name.rpartition(".experts.")
        if not dot:
            made[name] = array
        elif last == "down_proj.weight":
            count, outputs, inputs = array.shape
            for proj, rows in (("gate_up_proj", 2 * outputs), ("down_proj", outputs)):
                one = f"{path}.experts.{proj}"
                made[f"{one}_blocks"] = mx.zeros((count, rows, inputs // 32, 16), mx.uint8)
                made[f"{one}_scales"] = mx.full((count, rows, inputs // 32), 120, mx.uint8)
                made[f"{one}_bias"] = mx.zeros((count, rows), mx.bfloat16)
    return made


KINDS: dict[str, tuple[dict[str, Any], Callable[[Tensors], Tensors]]] = {
    "float32": (LLAMA, cast(mx.float32)),
    "bfloat16": (LLAMA, cast(mx.bfloat16)),
    "float16": (LLAMA, cast(mx.float16)),
    "affine 4 bits": (LLAMA, quantized(Q4)),
    "affine 3 bits": (LLAMA, quantized(Quantization(64, 3, "affine"))),
    "mxfp4": (LLAMA, quantized(FLOAT_MODES["mxfp4"])),
    "nvfp4 with a factor": (LLAMA, quantized(FLOAT_MODES["nvfp4"])),
    "experts apart": (MOE, apart),
    "gpt-oss in blocks": (BLOCKS, in_blocks),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind; as floats of 32 bits they take some tens of MB."""
    changes, stored = KINDS[request.param]
    config = tiny.CONFIG | {"vocab_size": 300} | changes
    made = tiny.write(tmp_path_factory.mktemp("models") / "model", **config)
    mx.save_safetensors(str(made / "model.safetensors"), stored(tiny.weights(config)))
    return made


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize("way", ["dense", "packed", "halves stay halves"])
def test_a_load_takes_little_more_than_the_model(
    folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU all become float32, unless packed weights are kept; on a full GPU all stay as they are."""
    if way == "halves stay halves":
        monkeypatch.setattr(device, "kind", lambda: "cuda")
        monkeypatch.setattr(memory, "budget", lambda: 2**40)
        monkeypatch.setattr(memory, "free", lambda: 0)
    by_inputs.is_faster()  # takes memory once in a process
    files = open_model(str(folder))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    loaded = load(files, lambda share: None, packed=way == "packed")
    peak = mx.get_peak_memory() - before
    final = sum(array.nbytes for array in parameters(loaded.model).values())
    assert final > 4 * MB
    assert mx.get_active_memory() - before < 1.02 * final + ELSEWHERE
    assert peak < MOST * final + ELSEWHERE
