"""GLM-4.7-Flash beyond the common contract: two orders of attention, its router, the spellings of its tensors."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.config.fields import Config, Fields
from runner.errors import BadModelFiles, UnsupportedModel
from runner.layers.latent import Attention
from runner.models import build
from runner.models.glm4_moe_lite import ExpertsConfig, Glm4MoeLiteConfig, Router
from tests.parts.architectures.glm4_moe_lite import FIELDS, NAME
from tests.parts.arrays import difference, noise
from tests.parts.case import TINY, Case, some_tokens
from tests.parts.models import Conversation, logits, made
from tests.parts.references import reference
from tests.parts.references.experts import in_two_tensors

CASE = Case("Glm names", NAME, FIELDS)
GLM: Config = CASE.config
ATTENTION = "model.layers.0.self_attn"
TOKENS = some_tokens(40)


def logits_of(weights: dict[str, mx.array]) -> mx.array:
    return logits(made(CASE, weights), TOKENS, (30, 1, 9))


# Attention.


@pytest.mark.parametrize("order", [True, False])
def test_both_orders_of_attention_give_the_logits_of_mlx_lm(order: bool) -> None:
    """At every length; the contract takes the cheaper one."""
    theirs = reference(CASE)
    model: Any = made(CASE, theirs.checkpoint())

    class OneOrder(Attention):
        def absorbing_is_less(self, length: int, kept: int) -> bool:
            return order

    for layer in model.model.layers:
        layer.self_attn.__class__ = OneOrder
    for sizes in ((40,), (1,), (13, 1, 2)):
        assert difference(logits(model, TOKENS, sizes), theirs.logits(TOKENS)) < 1e-4


def test_a_step_is_absorbed_and_a_first_chunk_expanded() -> None:
    """With the widths of the published model, short questions behind a long prefix are absorbed too."""
    sizes = {name: TINY[name] for name in ("vocab_size", "hidden_size", "intermediate_size")}
    config = {**sizes, "num_hidden_layers": 1, "num_attention_heads": 20}
    model: Any = build({**config, "architectures": ["Glm4MoeLiteForCausalLM"]})
    less = model.model.layers[0].self_attn.absorbing_is_less
    assert all(less(1, kept) for kept in (2, 1_000, 100_000))
    assert less(20, 1_000)
    assert not any(less(length, length) for length in (2, 256, 2_048))
    assert not less(2_048, 100_000)


def test_the_cache_holds_one_vector_a_position() -> None:
    conversation = Conversation(made(CASE, reference(CASE).checkpoint()))
    conversation.feed(TOKENS, (7,))
    width = GLM["kv_lora_rank"] + GLM["qk_rope_head_dim"]
    assert [storage.nbytes for storage in conversation.memory.storages] == [256 * width * 4] * 2


def test_latents_survive_growth_and_a_rewind() -> None:
    """The buffers grow before the rewind and behind it."""
    case = Case("Glm long", CASE.architecture, {**CASE.fields, "max_position_embeddings": 2048})
    theirs, tokens = reference(case), some_tokens(600)
    conversation = Conversation(made(case, theirs.checkpoint()))
    conversation.feed(tokens[:290] + some_tokens(100, "another end"), (130,))
    assert conversation.rewind(270)
    assert difference(conversation.feed(tokens[270:], (40, 1)), theirs.logits(tokens)[270:]) < 1e-4


# The router.


def router(**changes: Any) -> Router:
    fields = {"n_routed_experts": 6, "num_experts_per_tok": 2, "routed_scaling_factor": 1.5, **changes}
    made = Router(4, Glm4MoeLiteConfig.read(Fields({**GLM, **fields})).experts)
    made.weight = noise(6, 4, seed=1)
    return made


def test_a_correction_changes_the_choice_but_no_weight() -> None:
    made = router()
    made.e_score_correction_bias = mx.array([0.0, 5.0, 0.0, 0.0, 6.0, 0.0])
    x = noise(3, 4, seed=2)
    chosen, shares = made(x)
    assert mx.sort(chosen, axis=1).tolist() == [[1, 4]] * 3
    odds = mx.take_along_axis(mx.sigmoid(x @ made.weight.T), chosen, axis=1)
    assert difference(shares, 1.5 * odds / odds.sum(axis=1, keepdims=True)) < 1e-6


def test_a_group_that_is_out_stays_out_when_all_corrected_scores_are_negative() -> None:
    """mlx-lm, which gives it 0, would pick it then; transformers gives it -infinity."""
    made = router(n_group=3)
    made.e_score_correction_bias = mx.array([-3.0, -3.0, -5.0, -2.0, -6.0, -6.0])
    chosen, _ = made(noise(5, 4, seed=3))
    assert mx.sort(chosen, axis=1).tolist() == [[0, 1]] * 5, "the two best together, not the best one"


def test_the_weight_of_one_expert_alone_is_normalized_too() -> None:
    """As transformers does it; mlx-lm leaves it as it is."""
    _, shares = router(num_experts_per_tok=1)(noise(3, 4, seed=4))
    assert difference(shares, mx.full((3, 1), 1.5)) < 1e-6


def test_routing_is_done_in_float32() -> None:
    made, x = router(), noise(64, 4, seed=5)
    made.weight = made.weight.astype(mx.bfloat16)
    chosen, shares = made(x.astype(mx.bfloat16))
    assert shares.dtype == mx.float32
    exact = mx.sigmoid(x.astype(mx.bfloat16).astype(mx.float32) @ made.weight.astype(mx.float32).T)
    best = mx.argsort(exact, axis=1)[:, -2:]
    assert mx.array_equal(mx.sort(chosen, axis=1), mx.sort(best, axis=1))


# Names.


def test_every_spelling_is_the_same_model() -> None:
    """Hugging Face's old and new, mlx-lm's, and a store's, which is as the model holds it."""
    theirs = reference(CASE)
    weights = theirs.weights
    stored = {name.replace(".switch_mlp.", ".experts."): array for name, array in weights.items()}
    for spelling in (theirs.checkpoint(), in_two_tensors(weights), weights, stored):
        assert difference(logits_of(spelling), theirs.logits(TOKENS)) < 1e-4


def test_layers_that_draft_are_dropped() -> None:
    theirs = reference(CASE)
    path = "model.layers.2"
    draft = {
        f"{path}.eh_proj.weight": mx.zeros((2, 2)),
        f"{path}.mlp.experts.0.up_proj.weight": mx.zeros((2, 2)),
    }
    assert difference(logits_of({**theirs.checkpoint(), **draft}), theirs.logits(TOKENS)) < 1e-4


def test_more_layers_than_the_config_speaks_of_stay_for_the_loader_to_name() -> None:
    name = "model.layers.3.input_layernorm.weight"
    assert name in build(GLM).rename({name: mx.zeros(2)})
    behind = "model.layers.2.input_layernorm.weight"
    assert behind in build({**GLM, "num_nextn_predict_layers": 0}).rename({behind: mx.zeros(2)})
    assert behind not in build(GLM).rename({behind: mx.zeros(2)})


def test_latent_maps_in_two_spellings_are_refused() -> None:
    theirs = reference(CASE)
    both = {**theirs.checkpoint(), f"{ATTENTION}.embed_q.weight": mx.zeros((5, 40, 12))}
    with pytest.raises(BadModelFiles, match=r"embed_q\.weight is there twice"):
        build(GLM).rename(both)


def test_latent_maps_of_another_shape_are_named() -> None:
    with pytest.raises(BadModelFiles, match=r"kv_b_proj\.weight \(40, 160\), expected \(160, 40\)"):
        build(GLM).rename({f"{ATTENTION}.kv_b_proj.weight": mx.zeros((40, 160))})


# The config.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_method": "greedy"}, 'topk_method "greedy" is not supported, only noaux_tc is'),
        ({"scoring_func": "softmax"}, 'scoring_func "softmax" is not supported, only sigmoid is'),
        ({"mlp_layer_types": ["dense", "x"]}, 'mlp_layer_types has "x", supported are dense and sparse'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported by this"),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported'),
        ({"rope_scaling": {"type": "longrope"}}, 'of type "longrope" is not supported'),
    ],
)
def test_what_we_lack_is_refused(changes: Config, message: str) -> None:
    with pytest.raises(UnsupportedModel) as raised:
        build({**GLM, **changes})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_lora_rank": 0}, "kv_lora_rank is 0, expected an integer from 1"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0, expected an integer from 1"),
        ({"qk_rope_head_dim": 7}, "rotates 7 numbers, expected an even number"),
        ({"rope_interleave": 1}, "rope_interleave is 1, expected true or false"),
        ({"mlp_layer_types": ["dense"]}, "expected a list of num_hidden_layers, 2, names"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace is -1, expected an integer from 0"),
        ({"n_group": 3}, "n_group is 3, but 7 experts do not make groups of 2 or more"),
        ({"n_group": 7}, "n_group is 7, but 7 experts do not make groups of 2 or more"),
        ({"topk_group": 2}, "topk_group is 2, but there are 1 groups"),
        ({"num_experts_per_tok": 8}, "num_experts_per_tok is 8, but there are 7 experts to choose from"),
        (
            {"n_routed_experts": 8, "n_group": 4},
            "num_experts_per_tok is 3, but there are 2 experts to choose from",
        ),
        ({"n_shared_experts": -1}, "n_shared_experts is -1, expected an integer from 0"),
        ({"routed_scaling_factor": 0}, "routed_scaling_factor is 0, expected a number above 0"),
        ({"rope_scaling": {"type": "yarn", "mscale_all_dim": 1}}, "rope_scaling: factor is missing"),
    ],
)
def test_a_broken_field_is_named_with_its_value(changes: Config, message: str) -> None:
    with pytest.raises(BadModelFiles) as raised:
        build({**GLM, **changes})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_absent_fields_have_the_defaults_of_transformers() -> None:
    """Read in Glm4MoeLiteConfig of transformers 5.23; mlx-lm's theta is another."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    read = Glm4MoeLiteConfig.read(Fields({name: TINY[name] for name in names}))
    attention = read.attention
    assert (read.decoder.max_position_embeddings, read.decoder.rms_norm_eps) == (202_752, 1e-5)
    assert not read.decoder.tie_word_embeddings
    assert (attention.query_rank, attention.latent, attention.value) == (768, 512, 256)
    assert (attention.content, attention.rotated) == (192, 64)
    assert (attention.scale, attention.bias) == (1 / 16, False)
    assert (attention.rope.theta, attention.rope.traditional) == (10_000.0, True)
    assert read.sparse == (False, True)
    assert read.experts == ExpertsConfig(
        experts=64, active=4, width=1536, shared=1536, normalized=True, factor=1.8, groups=1, active_groups=1
    )


def test_null_is_no_default_where_it_means_something() -> None:
    read = Glm4MoeLiteConfig.read(Fields({**GLM, "q_lora_rank": None, "n_shared_experts": None}))
    assert (read.attention.query_rank, read.experts.shared) == (None, 0)


def test_the_rotated_part_goes_by_two_names() -> None:
    config = {name: value for name, value in GLM.items() if name != "qk_rope_head_dim"}
    assert Glm4MoeLiteConfig.read(Fields(config)).attention.rotated == TINY["head_dim"]
    assert Glm4MoeLiteConfig.read(Fields(GLM)).attention.rotated == 8
