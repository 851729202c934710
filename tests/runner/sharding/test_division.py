"""A model in parts, brought in by the loader: what each process has, and what cannot be divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from runner.errors import UnsupportedModel
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.quantization.settings import Quantization
from runner.sharding.group import Group
from runner.store.resolve import open_model
from tests.parts import tiny, zoo
from tests.parts.kinds import RECURRENT
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import in_mlx_spelling, section
from tests.parts.ranks import Member, Table, together

TOKENS = [257, *range(20)]
Q4 = Quantization(32, 4, "affine")
WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 160}


def part(model: Path, group: Group, *, packed: bool = False) -> LoadedModel:
    return load(open_model(str(model)), lambda share: None, packed=packed, group=group)


def in_parts(model: Path, size: int, *, packed: bool = False) -> list[np.ndarray[Any, Any]]:
    """The logits that each process has."""
    found = together(
        size, lambda group: np.array(logits(part(model, group, packed=packed).model, TOKENS, (20, 1)))
    )
    return list(found)


def whole(model: Path, *, packed: bool = False) -> np.ndarray[Any, Any]:
    return np.array(logits(loaded(model, packed=packed).model, TOKENS, (20, 1)))


def quantized(folder: Path, **changes: Any) -> Path:
    tiny.write(folder, **changes, quantization=section(Q4))
    weights = in_mlx_spelling(tiny.weights(tiny.CONFIG | changes), lambda path: Q4)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 6, "num_key_value_heads": 1},
        {"num_attention_heads": 6, "num_key_value_heads": 2},
        {"num_attention_heads": 6, "num_key_value_heads": 6},
        {"num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 97},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False, "vocab_size": 301},
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_whatever_the_heads_are_the_parts_say_what_the_whole_says(
    tmp_path: Path, changes: dict[str, Any], size: int
) -> None:
    model = tiny.write(tmp_path / "model", **changes)
    for found in in_parts(model, size):
        assert np.abs(found - whole(model)).max() < 1e-4


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("key_heads", [1, 4])
def test_quantized_weights_are_divided_between_their_groups(
    tmp_path: Path, size: int, packed: bool, key_heads: int
) -> None:
    """A width of 160 has five groups of 32: nobody's share begins inside one."""
    model = quantized(tmp_path / "model", **WIDE, num_key_value_heads=key_heads)
    for found in in_parts(model, size, packed=packed):
        assert np.abs(found - whole(model, packed=packed)).max() < 1e-4


def test_each_process_holds_its_share(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model", num_key_value_heads=6, tie_word_embeddings=False)
    entire = sum(array.size for array in parameters(loaded(model).model).values())
    shares = together(3, lambda group: sum(a.size for a in parameters(part(model, group).model).values()))
    norms = 5 * 48  # are everybody's
    assert shares == [(entire - norms) // 3 + norms] * 3


@pytest.mark.parametrize("packed", [False, True])
def test_linear_attention_that_is_quantized_is_divided_between_its_heads(
    tmp_path: Path, packed: bool
) -> None:
    config = {**RECURRENT, **WIDE, "num_experts": 0, "num_key_value_heads": 4}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 8, "linear_value_head_dim": 16}
    model = quantized(tmp_path / "model", **config | heads)
    for found in in_parts(model, 4, packed=packed):
        assert np.abs(found - whole(model, packed=packed)).max() < 1e-4


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize("rank", [0, 2])
def test_no_process_ever_holds_more_than_its_share_and_one_tensor(tmp_path: Path, rank: int) -> None:
    changes = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    model = tiny.write(tmp_path / "model", **changes, vocab_size=4000, num_hidden_layers=8)
    group = Member(rank, Table(4))  # the others are not needed for a load
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    ours = part(model, group)
    weights = sum(array.nbytes for array in parameters(ours.model).values())
    largest = 4 * 4000 * 256
    assert mx.get_active_memory() - before < 1.02 * weights
    assert mx.get_peak_memory() - before < 1.02 * (weights + largest)


def test_a_number_that_does_not_divide_the_heads_is_one_clear_line(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    with pytest.raises(
        UnsupportedModel, match="--tensor-parallel 4: the model has 6 heads, which 4 does not divide"
    ):
        in_parts(model, 4)


def test_groups_larger_than_a_head_are_refused(tmp_path: Path) -> None:
    model = quantized(tmp_path / "model", **WIDE | {"head_dim": 8, "num_key_value_heads": 4})
    with pytest.raises(UnsupportedModel, match="a dimension of 1 entries cannot be divided by 4"):
        in_parts(model, 2, packed=True)


def test_a_model_of_mlx_lm_is_refused_by_name(tmp_path: Path) -> None:
    model = zoo.write(tmp_path / "model", "Phi3ForCausalLM")
    with pytest.raises(
        UnsupportedModel, match="--tensor-parallel 2: Phi3ForCausalLM runs through mlx-lm, whose"
    ):
        in_parts(model, 2)
