"""Gemma 4 beyond the common contract: names of its checkpoints, caches of layers that share, the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles
from runner.models import build
from runner.models.base import Model
from runner.models.gemma4_experts import Router, plain_experts
from tests.parts import prefixes
from tests.parts.architectures.gemma4 import EXPERTS, FIELDS, PLE, SHARING
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.models import Conversation, logits, made
from tests.parts.references import reference
from tests.parts.references.base import Reference

EVERYTHING: Config = {**FIELDS, **SHARING, **PLE, **EXPERTS}
TEXT = Case("Gemma4 names", "Gemma4ForCausalLM", EVERYTHING)
MULTIMODAL = Case("Gemma4 names", "Gemma4ForConditionalGeneration", EVERYTHING)
TOKENS = some_tokens(40)

Tensors = dict[str, mx.array]


def is_the_reference(model: Model, theirs: Reference) -> bool:
    return difference(logits(model, TOKENS), theirs.logits(TOKENS)) < 1e-4


@pytest.mark.parametrize(
    "spelled",
    [prefixes.outside, prefixes.inside, prefixes.bare],
    ids=["mlx-lm", "published", "bare"],
)
def test_a_multimodal_checkpoint_loses_its_media_and_nothing_else(spelled: Callable[[str], str]) -> None:
    theirs = reference(MULTIMODAL)
    names = (
        "vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight",
        "audio_tower.layers.0.feed_forward1.ffw_layer_1.input_max",
        "embed_vision.embedding_projection.weight",
        "embed_audio.embedding_projection.weight",
        "vision_embedder.patch_dense.weight",
    )
    media = {prefix + name: mx.zeros(3) for name in names for prefix in ("", "model.")}
    weights = {spelled(name): array for name, array in theirs.checkpoint().items()}
    assert is_the_reference(made(MULTIMODAL, {**media, **weights}), theirs)


def test_media_in_a_text_model_stay_for_the_loader_to_name() -> None:
    model = build(TEXT.config)
    assert "vision_tower.x" in model.rename({"vision_tower.x": mx.zeros(3)})


@pytest.mark.parametrize("name", ["k_proj.weight", "v_proj.weight", "k_norm.weight", "k_proj.scales"])
def test_keys_and_values_of_a_layer_that_shares_are_dropped(name: str) -> None:
    """Published files have them; the layers before need theirs."""
    model = build(TEXT.config)
    owners = len(model.make_memory().storages)
    weights = {f"model.layers.{layer}.self_attn.{name}": mx.zeros(3) for layer in range(6)}
    assert owners == 3
    assert list(model.rename(weights)) == [
        f"model.layers.{layer}.self_attn.{name}" for layer in range(owners)
    ]


def test_what_layers_share_is_no_parameter_twice() -> None:
    parameters: Any = build(TEXT.config).parameters()
    parts = [set(layer["self_attn"]) for layer in parameters["model"]["layers"]]
    own = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
    assert parts == [own] * 3 + [{"q_proj", "o_proj", "q_norm"}] * 3


@pytest.mark.parametrize("flag", [True, False, None])
def test_a_head_that_is_there_counts_whatever_the_flag_says(flag: bool | None) -> None:
    untied = Case("Gemma4 head", "Gemma4ForCausalLM", {**FIELDS, "tie_word_embeddings": False})
    theirs = reference(untied)
    flagged = Case("Gemma4 head", "Gemma4ForCausalLM", {**FIELDS, "tie_word_embeddings": flag})
    assert is_the_reference(made(flagged, theirs.weights), theirs)
    without = {name: array for name, array in theirs.weights.items() if name != "lm_head.weight"}
    tied: Any = made(flagged, without)
    assert tied.tied


def fused(weights: Tensors, name: str) -> mx.array:
    return mx.concatenate([weights[name], weights[name.replace("gate_proj", "up_proj")]], axis=1)


def in_one_tensor(weights: Tensors, path: str, ending: str) -> Tensors:
    """As Hugging Face (no ending) and hosts have it."""
    spelled: Tensors = {}
    for name, array in weights.items():
        target = name.replace("experts.switch_glu", path).removesuffix(".weight")
        if "gate_proj" in name:
            spelled[target.replace("gate_proj", "gate_up_proj") + ending] = fused(weights, name)
        elif "up_proj" not in name:
            spelled[target + ending] = array
    return spelled


def one_by_one(weights: Tensors, path: str) -> Tensors:
    return {
        name.replace("experts.switch_glu.", f"{path}.{expert}."): array[expert]
        for name, array in weights.items()
        for expert in range(len(array))
    }


def one_by_one_in_halves(weights: Tensors) -> Tensors:
    whole = in_one_tensor(weights, "experts.switch_glu", ".weight")
    return one_by_one(whole, "moe.experts")


SPELLINGS: dict[str, Callable[[Tensors], Tensors]] = {
    "mlx-lm": lambda weights: weights,
    "published": lambda weights: in_one_tensor(weights, "experts", ""),
    "published with endings": lambda weights: in_one_tensor(weights, "experts", ".weight"),
    "stacked by a host": lambda weights: in_one_tensor(weights, "moe.switch_mlp", ".weight"),
    "apart": lambda weights: one_by_one(weights, "experts"),
    "apart, by a host": lambda weights: one_by_one(weights, "moe.experts"),
    "apart, in halves": one_by_one_in_halves,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_experts_in_every_spelling_are_the_same_model(spelling: str) -> None:
    theirs = reference(TEXT)
    experts = {name: array for name, array in theirs.weights.items() if ".experts." in name}
    others = {name: array for name, array in theirs.weights.items() if ".experts." not in name}
    assert len(experts) == 18
    assert is_the_reference(made(TEXT, others | SPELLINGS[spelling](experts)), theirs)


def test_a_store_without_endings_is_read_too() -> None:
    """A host that quantizes a tensor named `gate_up_proj` appends to just that."""
    path = "model.layers.0.experts"
    stored = {
        f"{path}.gate_up_proj": mx.zeros((2, 6, 4), mx.uint32),
        f"{path}.gate_up_proj.scale": mx.zeros((2, 6, 1)),
        f"{path}.gate_up_proj.bias": mx.zeros((2, 6, 1)),
        f"{path}.down_proj": mx.zeros((2, 3, 8), mx.uint32),
        f"{path}.down_proj.scale": mx.zeros((2, 3, 2), mx.uint8),
        f"{path}.down_proj.global_scale": mx.ones(2),
        f"{path}.gate_up_proj.global_scale": mx.ones(()),
    }
    found = {name: tuple(array.shape) for name, array in plain_experts(stored, 2).items()}
    halves = {"weight": (2, 3, 4), "scales": (2, 3, 1), "biases": (2, 3, 1), "global_scale": ()}
    down = {"weight": (2, 3, 8), "scales": (2, 3, 2), "global_scale": (2,)}
    assert found == {
        **{
            f"{path}.{name}.{part}": shape
            for name in ("gate_proj", "up_proj")
            for part, shape in halves.items()
        },
        **{f"{path}.down_proj.{part}": shape for part, shape in down.items()},
    }


def test_halves_that_are_none_are_refused() -> None:
    for shape in ((2, 5, 4), (6, 4)):
        with pytest.raises(BadModelFiles, match=r"experts\.gate_up_proj: shape"):
            plain_experts({"model.layers.0.experts.gate_up_proj": mx.zeros(shape)}, 2)


def test_experts_in_two_spellings_are_refused() -> None:
    """Whether they meet as they are renamed, or as they are cut."""
    names = ("experts.switch_glu.up_proj.weight", "moe.switch_mlp.up_proj.weight", "experts.gate_up_proj")
    for one in names:
        for other in names:
            if one != other:
                pair = {f"model.layers.0.{name}": mx.zeros((2, 4, 3)) for name in (one, other)}
                with pytest.raises(BadModelFiles, match="there twice"):
                    plain_experts(pair, 2)


def test_the_router_is_the_written_formula() -> None:
    """Softmax over all, the largest, divided by their sum, times each expert's factor: as transformers has it."""
    router = Router(8, 1e-6, experts=5, active=2)
    keys = mx.random.split(mx.random.key(0), 4)
    router.proj.weight = mx.random.normal((5, 8), key=keys[0])
    router.scale = mx.random.normal((8,), key=keys[1])
    router.per_expert_scale = mx.random.normal((5,), key=keys[2])
    tokens = mx.random.normal((3, 8), key=keys[3])
    chosen, shares = router(tokens)
    for row in range(3):
        x = tokens[row]
        x = x / mx.sqrt((x * x).mean() + 1e-6) * router.scale * 8**-0.5
        odds = mx.softmax(router.proj.weight @ x)
        best = mx.sort(mx.argsort(-odds)[:2])
        assert mx.array_equal(best, mx.sort(chosen[row]))
        by_hand = odds / odds[best].sum() * router.per_expert_scale
        assert difference(shares[row], by_hand[chosen[row]]) < 1e-5


def test_a_forward_of_half_precision_stays_in_it() -> None:
    """A float32 factor anywhere in the stream would make everything behind it twice as large."""
    wide = ("layer_scalar", "router.scale", "per_expert_scale")
    weights = {
        name: array if name.endswith(wide) else array.astype(mx.bfloat16)
        for name, array in reference(TEXT).checkpoint().items()
    }
    model = made(TEXT, weights)
    conversation = Conversation(model)
    hidden = conversation.forward(TOKENS)
    assert hidden.dtype == model.logits(hidden).dtype == mx.bfloat16
    assert {array.dtype for array in conversation.memory.arrays()} == {mx.bfloat16}
