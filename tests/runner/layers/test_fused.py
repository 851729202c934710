"""A fused block computes what the block computes; the plain forms stand for the kernels here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mlx.core as mx
import pytest

from runner.cache.company import Company
from runner.kernels.few_rows import PLAIN
from runner.kernels.product import MOST
from runner.kernels.rows_attention import PLAIN as PLAIN_ATTENTION
from runner.layers import nn
from runner.layers.block import Block
from runner.layers.fused import FusedBlocks, fuse
from runner.layers.linear_block import LinearBlock
from runner.layers.moe import SparseMLP
from runner.models.base import Model
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts import tiny
from tests.parts.architectures import CASES
from tests.parts.arrays import difference
from tests.parts.case import some_tokens
from tests.parts.checkpoints import checkpoint, floats
from tests.parts.models import Conversation, decoded_together, loaded, logits, made, parameters
from tests.parts.quantized import in_mlx_spelling, with_global_scales
from tests.parts.references import reference

TOKENS = some_tokens(72)
FUSED = {
    "GLM4MoeLite",
    "Glm4MoeLiteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3NextForCausalLM",
    "Qwen3NextForConditionalGeneration",
    "Qwen3NextMoeForCausalLM",
    "Qwen3NextMoeForConditionalGeneration",
    "Qwen3_5ForCausalLM",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForCausalLM",
    "Qwen3_5MoeForConditionalGeneration",
    "SmolLM3ForCausalLM",
}


@cache
def fused(name: str) -> tuple[Model, int]:
    """And how many of its blocks are fused."""
    model = made(CASES[name], reference(CASES[name]).checkpoint())
    assert isinstance(model, nn.Module)
    return model, fuse(model, PLAIN)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.architecture in FUSED])
def test_rows_through_fused_blocks_have_the_logits_of_the_blocks(name: str) -> None:
    """A lone row and several, of different lengths; long prompts go through the blocks as they are."""
    model, _ = fused(name)
    expected = reference(CASES[name]).logits(TOKENS)
    assert difference(logits(model, TOKENS), expected) < 1e-4
    for lengths in ([40], [5, 40, 23]):
        company, rows = Company(4, PLAIN_ATTENTION), {}
        for number, length in enumerate(lengths):
            rows[number] = Conversation(model)
            rows[number].feed(TOKENS[:length], (20,))
        for _ in range(4):
            places = [row.offset for row in rows.values()]
            found = decoded_together(model, company, rows, [TOKENS[place] for place in places])
            assert difference(found, expected[mx.array(places)]) < 1e-4


@pytest.mark.parametrize(
    "name", ["Qwen3_5 heads of 32", "Qwen3Next no experts, heads of 32", "Qwen3Next heads of 32"]
)
def test_no_half_of_a_hybrid_goes_as_it_is_when_rows_decode(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone row and two, whose states stay theirs."""
    model, _ = fused(name)
    rows = {number: Conversation(model) for number in range(2)}
    for row, length in zip(rows.values(), (30, 9), strict=True):
        row.feed(TOKENS[:length])

    def unused(*given: object) -> mx.array:
        raise AssertionError("a block went as it is")

    for kind in (Block, LinearBlock):
        monkeypatch.setattr(kind, "attended", unused)
        monkeypatch.setattr(kind, "__call__", unused)
    company, expected = Company(2, PLAIN_ATTENTION), reference(CASES[name]).logits(TOKENS)
    for going in ([0], [0, 1], [1]):
        places = [rows[number].offset for number in going]
        together = {number: rows[number] for number in going}
        assert company.takes({number: row.memory for number, row in together.items()})
        found = decoded_together(model, company, together, [TOKENS[place] for place in places])
        assert difference(found, expected[mx.array(places)]) < 1e-4


@pytest.mark.parametrize("name", ["Qwen3_5 heads of 32", "Qwen3Next no experts, heads of 32"])
def test_rates_and_decays_may_have_weights_of_another_kind(name: str) -> None:
    """As in quantized files, where they are floats."""
    narrow = (".in_proj_a.weight", ".in_proj_b.weight", ".in_proj_ba.weight")
    weights = {
        key: array.astype(mx.bfloat16) if key.endswith(narrow) else array
        for key, array in reference(CASES[name]).checkpoint().items()
    }
    plain, ours = (made(CASES[name], weights) for _ in range(2))
    assert isinstance(ours, nn.Module)
    assert fuse(ours, PLAIN) == 2
    assert isinstance(ours.model.layers[0], FusedBlocks)
    rows = {0: Conversation(ours)}
    rows[0].feed(TOKENS[:12])
    found = decoded_together(ours, Company(1, PLAIN_ATTENTION), rows, [TOKENS[12]])
    assert difference(found, logits(plain, TOKENS[:13])[12:]) < 1e-4


@pytest.mark.parametrize("name", ["Qwen3_5 heads of 32", "Qwen3Next no experts, heads of 32"])
def test_a_hybrid_goes_back_to_what_it_held_before_rows_decoded(name: str) -> None:
    """To a checkpoint, and to the position before the last step."""
    model, _ = fused(name)
    rows, company = {number: Conversation(model) for number in range(2)}, Company(2, PLAIN_ATTENTION)
    expected = reference(CASES[name]).logits(TOKENS)
    for row in rows.values():
        row.feed(TOKENS[:12])
    for _ in range(2):
        decoded_together(model, company, rows, [TOKENS[row.offset] for row in rows.values()])
    rows[0].checkpoint()
    for going in ([0, 1], [0]):
        together = {number: rows[number] for number in going}
        decoded_together(model, company, together, [TOKENS[row.offset] for row in together.values()])
    company.part()
    for row, places in ((rows[0], (15, 14)), (rows[1], (14,))):
        for place in places:
            assert row.restorable(row.offset - 1) == place
            assert row.rewind(place)
            found = row.feed(TOKENS[place : place + 1])[0]
            assert difference(found, expected[place]) < 1e-4
            assert row.rewind(place)


def test_the_architectures_whose_blocks_are_plain_are_fused() -> None:
    assert {case.architecture for name, case in CASES.items() if fused(name)[1]} == FUSED


@pytest.mark.parametrize(
    "name", ["Qwen3Moe attention_bias", "Qwen3Moe odds as they are", "Qwen3Moe one dense layer"]
)
def test_blocks_with_experts_are_fused_whole(name: str) -> None:
    """Both halves of each block: only then all of them are one."""
    model, _ = fused(name)
    decoder = model.model  # type: ignore[attr-defined]  # a CausalLM
    assert [type(layer) for layer in decoder.layers] == [FusedBlocks]


def test_the_second_half_is_one_for_rows_and_for_short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has experts, which a long prompt goes through as they are."""
    name = "Qwen3Moe attention_bias"
    model, _ = fused(name)
    expected = reference(CASES[name]).logits(TOKENS)

    def unused(*given: object) -> mx.array:
        raise AssertionError("experts went as they are")

    monkeypatch.setattr(SparseMLP, "__call__", unused)
    assert difference(logits(model, TOKENS[:MOST]), expected[:MOST]) < 1e-4
    with pytest.raises(AssertionError, match="as they are"):
        logits(model, TOKENS[: MOST + 1])


@pytest.mark.parametrize("kind", [Quantization(64, 3, "affine"), *FLOAT_MODES.values()], ids=str)
def test_packed_blocks_are_fused_whatever_their_kind(tmp_path: Path, kind: Quantization) -> None:
    """With global scales where there are any."""
    tensors = in_mlx_spelling(floats(), lambda path: kind if ".layers." in path else None)
    if kind.mode == "nvfp4":
        tensors = with_global_scales(tensors)
    model = loaded(checkpoint(tmp_path / "model", tensors), packed=True).model
    expected = logits(model, TOKENS[:9])
    assert isinstance(model, nn.Module)
    assert fuse(model, PLAIN) == tiny.CONFIG["num_hidden_layers"]
    row = Conversation(model)
    row.feed(TOKENS[:8])
    found = decoded_together(model, Company(2, PLAIN_ATTENTION), {0: row}, TOKENS[8:9])
    assert difference(found, expected[8:]) < 1e-4


def test_a_fused_model_keeps_its_parameters() -> None:
    name = next(name for name, case in CASES.items() if case.architecture == "LlamaForCausalLM")
    model, _ = fused(name)
    plain = made(CASES[name], reference(CASES[name]).checkpoint())
    sizes = [sum(array.nbytes for array in parameters(one).values()) for one in (model, plain)]
    assert sizes[0] == sizes[1]


def test_more_rows_than_the_kernels_take_go_through_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name, case in CASES.items() if case.architecture == "LlamaForCausalLM")
    model, _ = fused(name)
    taken: list[int] = []
    whole = FusedBlocks.__call__

    def watched(self: FusedBlocks, x: mx.array, *rest: object) -> mx.array:
        taken.append(x.shape[0])
        return whole(self, x, *rest)  # type: ignore[arg-type]  # what a layer is given

    monkeypatch.setattr(FusedBlocks, "__call__", watched)
    rows = {number: Conversation(model) for number in range(MOST + 1)}
    for row in rows.values():
        row.feed(TOKENS[:3])
    found = decoded_together(model, Company(MOST + 1, PLAIN_ATTENTION), rows, [TOKENS[3]] * len(rows))
    assert max(taken) > MOST
    assert (
        difference(found, mx.repeat(reference(CASES[name]).logits(TOKENS[:4])[3:], len(rows), axis=0)) < 1e-4
    )
