"""Qwen3-Next and Qwen3.5 beyond the common contract: names and layouts of checkpoints, half precision, defaults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles
from runner.kernels.delta import heads_of
from runner.models import build
from tests.parts import mlx_lm, prefixes, tiny
from tests.parts.architectures.hybrids import BOTH, LINEAR
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.models import Conversation, loaded, logits, made
from tests.parts.references import reference
from tests.parts.references.base import Reference
from tests.parts.references.experts import in_two_tensors

NEXT = Case("Qwen3Next names", "Qwen3NextForCausalLM", BOTH)
DENSE = Case("Qwen3_5 names", "Qwen3_5ForConditionalGeneration", LINEAR)
SPARSE = Case("Qwen3_5Moe names", "Qwen3_5MoeForConditionalGeneration", BOTH)
OLDER_DENSE = Case("Qwen3Next without experts", "Qwen3NextForCausalLM", {**BOTH, "num_experts": 0})
CASES = pytest.mark.parametrize("case", [NEXT, DENSE, SPARSE], ids=lambda case: case.name)
TOKENS = some_tokens(30)


def is_the_reference(case: Case, weights: dict[str, mx.array], theirs: Reference) -> bool:
    return difference(logits(made(case, weights), TOKENS), theirs.logits(TOKENS)) < 1e-4


def gate_and_up_together(theirs: Reference) -> dict[str, mx.array]:
    """As transformers 5 writes experts; Qwen3.5 was published so."""
    others = {name: array for name, array in theirs.checkpoint().items() if ".experts." not in name}
    experts = {name: array for name, array in theirs.weights.items() if ".switch_mlp." in name}
    return others | in_two_tensors(experts)


@CASES
def test_a_converted_checkpoint_is_taken_as_it_is(case: Case) -> None:
    """mlx-lm's: convolutions moved, norms whole, experts joined."""
    theirs = reference(case)
    assert is_the_reference(case, theirs.weights, theirs)


@CASES
def test_a_converted_checkpoint_that_kept_its_further_tokens_is_not_shifted_again(case: Case) -> None:
    """They were once taken for the sign of a published checkpoint."""
    theirs = reference(case)
    further = {f"language_model.mtp.{name}": mx.zeros(3) for name in ("fc.weight", "norm.weight")}
    weights = {f"language_model.{name}": array for name, array in theirs.weights.items()}
    assert is_the_reference(case, {**weights, **further}, theirs)


@pytest.mark.parametrize(
    "spelled",
    [prefixes.bare, prefixes.inside, prefixes.outside],
    ids=["text", "published", "host"],
)
@CASES
def test_vision_and_further_tokens_are_dropped_and_nothing_else(
    case: Case, spelled: Callable[[str], str]
) -> None:
    """transformers ignores both in the text models too."""
    theirs = reference(case)
    extra = {
        "mtp.fc.weight": mx.zeros(3),
        "mtp.layers.0.self_attn.q_proj.weight": mx.zeros(3),
        "mtp.layers.0.mlp.experts.0.up_proj.weight": mx.zeros(3),
        "mtp.pre_fc_norm_hidden.weight": mx.zeros(3),
        "model.visual.blocks.0.norm1.weight": mx.zeros(3),
        "vision_tower.patch_embed.proj.weight": mx.zeros((2, 3, 4)),
    }
    weights = {spelled(name): array for name, array in theirs.checkpoint().items()}
    assert is_the_reference(case, {**weights, **extra}, theirs)
    assert "mtp_like.x" in build(case.config).rename({"mtp_like.x": mx.zeros(3)})


@pytest.mark.parametrize("case", [NEXT, SPARSE], ids=lambda case: case.name)
def test_experts_with_gate_and_up_in_one_tensor_are_the_same(case: Case) -> None:
    theirs = reference(case)
    weights = gate_and_up_together(theirs)
    assert is_the_reference(case, weights, theirs)
    twice = {f"model.layers.1.mlp.experts.{name}.weight": mx.zeros(3) for name in ("up_proj", "down_proj")}
    with pytest.raises(BadModelFiles, match="there twice"):
        build(case.config).rename({**weights, **twice})


@CASES
def test_convolutions_in_two_layouts_are_refused(case: Case) -> None:
    one, other = "model.layers.0.linear_attn.conv1d.weight", "model.layers.1.linear_attn.conv1d.weight"
    with pytest.raises(BadModelFiles, match="in two layouts"):
        build(case.config).rename({one: mx.zeros((9, 1, 4)), other: mx.zeros((9, 4, 1))})


def test_a_tensor_that_is_there_under_two_prefixes_is_refused() -> None:
    twice = {"model.layers.0.x": mx.zeros(3), "model.language_model.layers.0.x": mx.zeros(3)}
    with pytest.raises(BadModelFiles, match=r"model\.layers\.0\.x is there twice"):
        build(DENSE.config).rename(twice)


@pytest.mark.parametrize("flag", [True, False])
def test_a_head_that_is_there_counts_whatever_the_flag_says(flag: bool) -> None:
    """transformers 5 does not tie a head to an embedding that it differs from either."""
    flagged = Case(DENSE.name, DENSE.architecture, {**LINEAR, "tie_word_embeddings": flag})
    theirs = reference(DENSE)
    assert is_the_reference(flagged, theirs.checkpoint(), theirs)
    model: Any = made(
        flagged, {n: array for n, array in theirs.checkpoint().items() if n != "lm_head.weight"}
    )
    assert model.tied


def test_the_1_of_a_norm_is_added_in_float32_and_not_to_every_norm() -> None:
    """In bfloat16 1 + weight is off by up to 2^-9; the norm of linear attention's answers is stored whole."""
    small = mx.full((4,), 0.003, mx.bfloat16)
    names = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
    around_0 = [*(f"model.layers.1.{name}.weight" for name in names), "model.norm.weight"]
    whole = "model.layers.0.linear_attn.norm.weight"
    convolution = {"model.layers.0.linear_attn.conv1d.weight": mx.zeros((9, 1, 4))}
    renamed = build(NEXT.config).rename({**dict.fromkeys([*around_0, whole], small), **convolution})
    for name in around_0:
        assert renamed[name].dtype == mx.float32
        assert mx.array_equal(renamed[name], 1 + small.astype(mx.float32)), name
    assert mx.array_equal(renamed[whole], small)
    assert renamed[whole].dtype == mx.bfloat16
    assert renamed["model.layers.0.linear_attn.conv1d.weight"].shape == (9, 4, 1)


@pytest.mark.parametrize("case", [OLDER_DENSE, DENSE], ids=lambda case: case.name)
def test_half_precision_stays_half_and_the_state_float32(case: Case) -> None:
    """The layers between compute in the weights' type; what is summed up over all positions does not."""
    theirs = reference(case)
    half = {name: array.astype(mx.bfloat16) for name, array in theirs.checkpoint().items()}
    model: Any = made(case, half)
    conversation = Conversation(model)
    hidden = conversation.forward(TOKENS)
    assert hidden.dtype == mx.bfloat16
    linear = model.model.layers[0].linear_attn
    heads = heads_of(mx.zeros((1, 2, linear.config.channels), mx.bfloat16), linear.config)
    assert {part.dtype for part in heads} == {mx.float32}, "normed in float32, too"
    state = conversation.memory.recurrent[0].state
    assert state is not None
    tail, memory = state
    assert (tail.dtype, memory.dtype) == (mx.bfloat16, mx.float32)
    assert tail.shape == (1, 3, 2 * 3 * 16 + 6 * 12)
    assert memory.shape == (1, 6, 16, 12)
    assert {array.dtype for array in conversation.memory.attention[1].arrays()} == {mx.bfloat16}
    whole = theirs.logits(TOKENS)
    off = difference(model.logits(hidden)[0].astype(mx.float32), whole)
    assert off < 0.1 * difference(whole, mx.zeros_like(whole))


@pytest.mark.parametrize("kind", ["qwen3_next", "qwen3_5", "qwen3_5_moe"])
def test_a_published_checkpoint_and_what_mlx_lm_makes_of_it(tmp_path: Path, kind: str) -> None:
    """Read from the disk by both; mixed bits for router and gate, packed and not."""
    from mlx_lm.convert import convert

    published, converted = tmp_path / "published", tmp_path / "converted"
    case = Case(f"{kind} published", PUBLISHED[kind], {**ROOMY, "num_experts": 0 if kind == "qwen3_5" else 5})
    tiny.write(published)  # for its tokenizer
    config = {**case.config, "model_type": kind}
    (published / "config.json").write_text(json.dumps(config))
    theirs = reference(case)
    weights = gate_and_up_together(theirs) if kind == "qwen3_5_moe" else theirs.checkpoint()
    mx.save_safetensors(str(published / "model.safetensors"), weights)
    convert(str(published), str(converted), quantize=True, q_group_size=32, q_bits=4, dtype="bfloat16")
    for folder, packed in ((published, False), (converted, False), (converted, True)):
        ours = loaded(folder, packed=packed).model
        assert difference(logits(ours, TOKENS), mlx_lm.logits(folder, TOKENS)) < 1e-4


PUBLISHED = {
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForCausalLM",
}
ROOMY: Config = {  # for groups of 32
    **BOTH,
    "head_dim": 32,
    "num_key_value_heads": 2,
    "num_attention_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
}
