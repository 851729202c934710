"""Mixtures of experts: the spellings of their tensors, and the sorted way through them."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from runner.layers.moe import SORTED_FROM, Experts, join_experts
from tests.parts.architectures import CASES
from tests.parts.arrays import difference
from tests.parts.case import some_tokens
from tests.parts.models import logits, made
from tests.parts.references import reference
from tests.parts.references.experts import in_two_tensors

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PREFIX = "model.layers.0.mlp"


def noise(*shape: int, seed: int = 0) -> mx.array:
    return 0.3 * mx.random.normal(shape, key=mx.random.key(seed))


def experts() -> Experts:
    made = Experts(hidden=12, width=10, experts=5)
    for seed, name in enumerate(PROJECTIONS):
        made[name].weight = noise(*made[name].weight.shape, seed=seed)
    return made


def by_hand(made: Experts, x: mx.array, chosen: mx.array) -> mx.array:
    """[T,A,E], one pair after the other."""
    gate, up, down = (made[name].weight for name in PROJECTIONS)

    def one(row: mx.array, expert: int) -> mx.array:
        turned = gate[expert] @ row
        out: mx.array = down[expert] @ (turned * mx.sigmoid(turned) * (up[expert] @ row))
        return out

    picked: list[list[int]] = chosen.tolist()  # type: ignore[assignment]  # of two dimensions
    return mx.stack([mx.stack([one(x[t], expert) for expert in row]) for t, row in enumerate(picked)])


@pytest.mark.parametrize("tokens", [1, 2, SORTED_FROM // 3, SORTED_FROM // 3 + 1, 50])
def test_each_pair_goes_through_its_expert_sorted_or_not(tokens: int) -> None:
    x = noise(tokens, 12, seed=7)
    chosen = mx.argsort(noise(tokens, 5, seed=8), axis=-1)[:, :3]
    made = experts()
    assert difference(made(x, chosen), by_hand(made, x, chosen)) < 1e-5


def test_all_tokens_may_want_the_same_expert() -> None:
    x, chosen = noise(SORTED_FROM, 12), mx.full((SORTED_FROM, 1), 3, mx.int32)
    made = experts()
    assert difference(made(x, chosen), by_hand(made, x, chosen)) < 1e-5


@pytest.mark.parametrize("tensor", ["weight", "scales"])
def test_tensors_of_one_expert_each_are_joined_in_their_order(tensor: str) -> None:
    """By number, not by name: 10 comes behind 9."""
    apart = {f"{PREFIX}.experts.{n}.up_proj.{tensor}": mx.full((2, 3), n) for n in reversed(range(12))}
    joined = join_experts({**apart, f"{PREFIX}.gate.weight": mx.zeros((12, 3))}, 12)
    assert set(joined) == {f"{PREFIX}.experts.up_proj.{tensor}", f"{PREFIX}.gate.weight"}
    stacked = joined[f"{PREFIX}.experts.up_proj.{tensor}"]
    assert stacked.shape == (12, 2, 3)
    assert stacked[:, 0, 0].tolist() == list(range(12))


@pytest.mark.parametrize("group", ["mlp.experts", "mlp.switch_mlp", "moe.experts"])
def test_tensors_of_all_experts_are_taken_as_they_are(group: str) -> None:
    """A store's groups keep the names of what they were made from."""
    weights = {f"model.layers.0.{group}.{name}.weight": noise(5, 2, 3) for name in PROJECTIONS}
    joined = join_experts(weights, 5)
    assert set(joined) == {f"{PREFIX}.experts.{name}.weight" for name in PROJECTIONS}


def test_experts_with_gate_and_up_in_one_tensor_are_split() -> None:
    """Newer transformers: the rows of gate, then those of up. A quantized one's parts are split with it."""
    both, down = noise(5, 6, 4), noise(5, 4, 3)
    weights = {f"{PREFIX}.experts.gate_up_proj": both, f"{PREFIX}.experts.down_proj": down}
    joined = join_experts(weights, 5)
    assert set(joined) == {f"{PREFIX}.experts.{name}.weight" for name in PROJECTIONS}
    assert mx.array_equal(joined[f"{PREFIX}.experts.gate_proj.weight"], both[:, :3])
    assert mx.array_equal(joined[f"{PREFIX}.experts.up_proj.weight"], both[:, 3:])
    assert mx.array_equal(joined[f"{PREFIX}.experts.down_proj.weight"], down)

    scales = join_experts({f"{PREFIX}.experts.gate_up_proj.scales": both}, 5)
    assert mx.array_equal(scales[f"{PREFIX}.experts.up_proj.scales"], both[:, 3:])
    factors = join_experts({f"{PREFIX}.experts.gate_up_proj.global_scale": mx.arange(5)}, 5)
    assert [array.tolist() for array in factors.values()] == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("shape", [(6, 4), (5, 7, 4)])
def test_gate_and_up_that_are_no_halves_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadModelFiles, match=r"gate_up_proj: shape \("):
        join_experts({f"{PREFIX}.experts.gate_up_proj": mx.zeros(shape)}, 5)


def test_a_shared_expert_is_none_of_them() -> None:
    weights = {
        f"{PREFIX}.shared_experts.gate_proj.weight": mx.zeros((2, 3)),
        "model.norm.weight": mx.zeros(3),
    }
    assert set(join_experts(weights, 5)) == set(weights)


def test_a_qwen_in_any_spelling_is_the_same_model() -> None:
    """Hugging Face's old and new, mlx-lm's, and a store's, which is as the model holds it."""
    case = CASES["Qwen3Moe all experts"]
    theirs, tokens = reference(case), some_tokens(20)
    stored = {name.replace(".switch_mlp.", ".experts."): array for name, array in theirs.weights.items()}
    for spelling in (theirs.checkpoint(), in_two_tensors(theirs.weights), theirs.weights, stored):
        assert difference(logits(made(case, spelling), tokens), theirs.logits(tokens)) < 1e-4


def test_a_missing_expert_is_named() -> None:
    apart = {f"{PREFIX}.experts.{n}.up_proj.weight": mx.zeros((2, 3)) for n in (0, 1, 3)}
    with pytest.raises(BadModelFiles, match=r"experts\.up_proj\.weight: there are tensors of 3 experts"):
        join_experts(apart, 4)


def test_one_expert_too_many_is_refused() -> None:
    apart = {f"{PREFIX}.experts.{n}.up_proj.weight": mx.zeros((2, 3)) for n in range(5)}
    with pytest.raises(BadModelFiles, match="of 5 experts, expected 0 to 3"):
        join_experts(apart, 4)


def test_experts_of_unequal_shapes_are_refused() -> None:
    apart = {f"{PREFIX}.experts.{n}.up_proj.weight": mx.zeros((2, 3 + n)) for n in range(2)}
    with pytest.raises(BadModelFiles, match="differ in shape"):
        join_experts(apart, 2)


def test_experts_that_are_there_in_two_spellings_are_refused() -> None:
    apart = {f"{PREFIX}.experts.{n}.up_proj.weight": mx.zeros((2, 3)) for n in range(2)}
    stacked = {f"{PREFIX}.switch_mlp.up_proj.weight": mx.zeros((2, 2, 3))}
    with pytest.raises(BadModelFiles, match="there twice"):
        join_experts({**stacked, **apart}, 2)
