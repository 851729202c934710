"""OpenAI's own files of gpt-oss: experts as blocks of 4-bit floats with a shared exponent.

The encoder is written down here once more, from the OCP Microscaling specification: 32 codes share a power of two,
the first of two codes is in a byte's lower half.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles, UnsupportedModel
from runner.loading.description import describe
from runner.models.base import Model
from runner.store.resolve import open_model
from tests.parts import tiny
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.models import loaded, logits
from tests.parts.references import reference
from tests.parts.references.base import Reference
from tests.parts.stores import bring_in

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
EXPERTS, HIDDEN, WIDTH = 3, 64, 96
CASE = Case(
    "GptOss blocks",
    "GptOssForCausalLM",
    {
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "sliding_window": 9,
        "rope_scaling": {"rope_type": "default", "rope_theta": 10_000.0},
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
            "quant_method": "mxfp4",
        },
    },
    windows=(9, None),
)
LAYER = "model.layers.0.mlp.experts"
TOKENS = some_tokens(40)

Rows = list[list[list[float]]]  # [N,out,in]
Tensors = dict[str, mx.array]


def encoded(rng: random.Random, outputs: int, inputs: int) -> tuple[mx.array, mx.array, Rows]:
    """Random blocks [N,out,in/32,16], scales [N,out,in/32], and the numbers that they stand for."""
    blocks, scales, numbers = [], [], []
    for _ in range(EXPERTS * outputs * inputs // 32):
        codes = [rng.randrange(16) for _ in range(32)]
        exponent = rng.randint(-6, -4)
        blocks.append([codes[i] | codes[i + 1] << 4 for i in range(0, 32, 2)])
        scales.append(exponent + 127)
        numbers.append([E2M1[code] * 2.0**exponent for code in codes])
    shape = (EXPERTS, outputs, inputs // 32)
    rows: Any = mx.array(numbers).reshape(EXPERTS, outputs, inputs).tolist()
    return (
        mx.array(blocks, mx.uint8).reshape(*shape, 16),
        mx.array(scales, mx.uint8).reshape(shape),
        rows,
    )


def published() -> tuple[Tensors, Reference]:
    """A checkpoint in OpenAI's layout, and mlx-lm's float model of the numbers in it."""
    rng, theirs, tensors = random.Random(7), reference(CASE), {}
    weights = theirs.weights
    for name in list(weights):
        path, dot, last = name.rpartition(".experts.")
        both, down = f"{path}.experts.gate_up_proj", f"{path}.experts.down_proj"
        if not dot:
            tensors[name] = weights[name]
        elif last == "gate_proj.weight":
            tensors[f"{both}_blocks"], tensors[f"{both}_scales"], rows = encoded(rng, 2 * WIDTH, HIDDEN)
            weights[name] = mx.array([expert[::2] for expert in rows])
            weights[name.replace("gate", "up")] = mx.array([expert[1::2] for expert in rows])
        elif last == "gate_proj.bias":
            pairs = [weights[name], weights[name.replace("gate", "up")]]
            tensors[f"{both}_bias"] = mx.stack(pairs, axis=-1).reshape(EXPERTS, 2 * WIDTH)
        elif last == "down_proj.weight":
            tensors[f"{down}_blocks"], tensors[f"{down}_scales"], rows = encoded(rng, HIDDEN, WIDTH)
            weights[name] = mx.array(rows)
        elif last == "down_proj.bias":
            tensors[f"{down}_bias"] = weights[name]
    theirs.model.load_weights(list(weights.items()))
    return tensors, theirs


def checkpoint(folder: Path, tensors: Tensors) -> Path:
    tiny.write(folder, **{"tie_word_embeddings": False, **CASE.config})
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def is_the_reference(model: Model, theirs: Reference) -> bool:
    return difference(logits(model, TOKENS, (7,)), theirs.logits(TOKENS)) < 1e-4


@pytest.mark.parametrize("packed", [True, False])
def test_openais_layout_gives_the_logits_of_the_numbers_in_it(tmp_path: Path, packed: bool) -> None:
    tensors, theirs = published()
    model: Any = loaded(checkpoint(tmp_path / "blocks", tensors), packed=packed).model
    experts = model.model.layers[0].mlp.experts
    for name in ("gate_proj", "up_proj", "down_proj"):
        assert experts[name].weight.dtype == (mx.uint32 if packed else mx.float32)
    assert is_the_reference(model, theirs)


@pytest.mark.parametrize("packed", [True, False])
def test_blocks_and_their_scales_may_lie_in_different_files(tmp_path: Path, packed: bool) -> None:
    tensors, theirs = published()
    folder = checkpoint(tmp_path / "blocks", tensors)
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    place = {name: shards[name.endswith("_scales")] for name in tensors}
    for shard in shards:
        part = {name: array for name, array in tensors.items() if place[name] == shard}
        mx.save_safetensors(str(folder / shard), part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    assert is_the_reference(loaded(folder, packed=packed).model, theirs)


def test_blocks_go_through_the_store_as_they_are(tmp_path: Path) -> None:
    tensors, theirs = published()
    folder = checkpoint(tmp_path / "blocks", tensors)
    store = tmp_path / "store"
    summary = bring_in(folder, store)
    assert is_the_reference(loaded("tiny", store).model, theirs)
    shown = describe(open_model("tiny", store))
    assert shown.matrices == {"mxfp4 (32)": 4}
    assert shown.parameters == summary.plan.parameters == sum(a.size for a in theirs.weights.values())
    with pytest.raises(UnsupportedModel, match="quantized already"):
        bring_in(folder, store, "int4")


def test_a_float_model_that_kept_the_method_in_its_config_is_read_by_its_tensors(tmp_path: Path) -> None:
    theirs = reference(CASE)
    folder = checkpoint(tmp_path / "floats", theirs.checkpoint())
    assert is_the_reference(loaded(folder).model, theirs)


GATE_UP = f"{LAYER}.gate_up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{GATE_UP}_scales": None}, f"{GATE_UP}_blocks without {GATE_UP}_scales"),
        ({f"{GATE_UP}_blocks": None}, f"{GATE_UP}_scales without {GATE_UP}_blocks"),
        (
            {f"{GATE_UP}_blocks": mx.zeros((3, 192, 2, 8), mx.uint8)},
            f"{GATE_UP}_blocks is uint8 (3, 192, 2, 8), expected uint8 in blocks of 16",
        ),
        (
            {f"{GATE_UP}_blocks": mx.zeros((3, 192, 2, 16), mx.int8)},
            f"{GATE_UP}_blocks is int8 (3, 192, 2, 16), expected uint8 in blocks of 16",
        ),
        (
            {f"{GATE_UP}_blocks": mx.array(1, mx.uint8)},
            f"{GATE_UP}_blocks is uint8 (), expected uint8 in blocks of 16",
        ),
        (
            {f"{GATE_UP}_blocks": mx.zeros((3, 192, 3, 16), mx.uint8)},
            f"{GATE_UP}_scales uint8 (3, 192, 2) do not fit {GATE_UP}_blocks uint8 (3, 192, 3, 16)",
        ),
        (
            {f"{GATE_UP}_scales": mx.zeros((3, 192, 2))},
            f"{GATE_UP}_scales float32 (3, 192, 2) do not fit {GATE_UP}_blocks uint8 (3, 192, 2, 16)",
        ),
        (
            {
                f"{GATE_UP}_blocks": mx.zeros((3, 191, 2, 16), mx.uint8),
                f"{GATE_UP}_scales": mx.zeros((3, 191, 2), mx.uint8),
            },
            f"{LAYER}.up_proj.weight: packed uint32 (3, 95, 8) with scales uint8 (3, 95, 2) "
            "cannot stand for (3, 96, 64)",
        ),
        (
            {
                f"{GATE_UP}_blocks": mx.zeros((192, 2, 16), mx.uint8),
                f"{GATE_UP}_scales": mx.zeros((192, 2), mx.uint8),
            },
            f"{GATE_UP}.weight: 2 dimensions, which is not what experts have",
        ),
        ({f"{GATE_UP}.weight": mx.zeros(1)}, f"tensor {GATE_UP}.weight is there twice, in two spellings"),
    ],
)
def test_blocks_that_do_not_fit_are_one_line_with_the_tensors_name(
    tmp_path: Path, change: dict[str, mx.array | None], message: str
) -> None:
    tensors: dict[str, mx.array | None] = {**published()[0], **change}
    kept = {name: array for name, array in tensors.items() if array is not None}
    with pytest.raises(BadModelFiles) as caught:
        loaded(checkpoint(tmp_path / "blocks", kept))
    assert str(caught.value) == message
