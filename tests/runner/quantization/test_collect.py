"""What a stored tensor is, told by its name and its type."""

from __future__ import annotations

import pytest

from runner.errors import BadModelFiles
from runner.quantization.collect import Part, classify, in_mlx_types, require_whole, stored_names
from runner.quantization.names import Layout, Role
from runner.store.safetensors_header import Tensor

X = "model.layers.0.mlp.up_proj"

LAYOUTS: list[tuple[Layout, dict[str, str], list[Role]]] = [
    ("mlx", {"X.weight": "U32", "X.scales": "F16", "X.biases": "F16"}, ["weight", "scales", "biases"]),
    ("mlx", {"X.scales": "U8", "X.weight": "U32"}, ["scales", "weight"]),
    (
        "mlx",
        {"X.weight": "U32", "X.weight.scale": "BF16", "X.weight.bias": "BF16"},
        ["weight", "scales", "biases"],
    ),
    (
        "mlx",
        {"X.weight": "U32", "X.scales": "U8", "X.global_scale": "F32"},
        ["weight", "scales", "global_scale"],
    ),
    (
        "mlx",
        {"X.weight": "U32", "X.weight.scale": "U8", "X.weight.global_scale": "F32"},
        ["weight", "scales", "global_scale"],
    ),
    (
        "mlx",
        {"X.weight": "U32", "X.weight.scale": "U8", "X.weight_scale_2": "F32"},
        ["weight", "scales", "global_scale"],
    ),
    ("blocks", {"X_blocks": "U8", "X_scales": "U8"}, ["weight", "scales"]),
    (
        "modelopt",
        {"X.weight": "U8", "X.weight_scale": "F8_E4M3", "X.weight_scale_2": "F32", "X.input_scale": "F32"},
        ["weight", "scales", "global_scale"],
    ),
    (
        "compressed",
        {"X.weight_packed": "U8", "X.weight_scale": "F8_E4M3", "X.weight_global_scale": "F32"},
        ["weight", "scales", "global_scale"],
    ),
]


def named(dtypes: dict[str, str]) -> dict[str, str]:
    return {name.replace("X", X): dtype for name, dtype in dtypes.items()}


@pytest.mark.parametrize(("layout", "dtypes", "roles"), LAYOUTS)
def test_each_layouts_names_lead_to_the_same_parts(
    layout: Layout, dtypes: dict[str, str], roles: list[Role]
) -> None:
    plain = {"model.norm.weight": "F32", f"{X}.bias": "F32"}
    parts = classify(named(dtypes) | plain)
    matrix = [part for part in parts.values() if part.role]
    assert matrix == [Part(X, role, layout) for role in roles]
    assert [part.name for part in parts.values() if not part.role] == [*plain]
    for part in matrix:
        require_whole(part, {*parts, *stored_names(parts)})


@pytest.mark.parametrize(
    "dtypes",
    [
        {"X.weight": "F32"},
        {"X.weight": "U32"},
        {"X.weight": "U8", "X.weight_scale": "U8"},  # which nvfp4 has as F8_E4M3
        {"X.weight": "F8_E4M3", "X.weight_scale": "F8_E4M3"},
        {"X_scales": "F32"},
    ],
)
def test_what_belongs_to_no_matrix_is_a_tensor_by_itself(dtypes: dict[str, str]) -> None:
    assert classify(named(dtypes)) == {name: Part(name) for name in named(dtypes)}


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        ({"X.scales": "U8"}, "X.scales without X.weight"),
        ({"X.weight": "U32", "X.weight.bias": "F32"}, "X.biases without X.scales"),
        ({"X.global_scale": "F32"}, "X.global_scale without X.weight"),
        ({"X_blocks": "U8"}, "X_blocks without X_scales"),
        ({"X_scales": "U8"}, "X_scales without X_blocks"),
    ],
)
def test_a_part_without_its_others_is_named_as_its_layout_has_it(
    dtypes: dict[str, str], message: str
) -> None:
    parts = classify(named(dtypes))
    *_, last = parts.values()
    with pytest.raises(BadModelFiles) as caught:
        require_whole(last, {*parts, *stored_names(parts)})
    assert str(caught.value) == message.replace("X", X)


@pytest.mark.parametrize("other", ["X.weight.scale", "X_scales"])
def test_one_part_in_two_spellings_is_refused(other: str) -> None:
    parts = classify(named({"X.weight": "U32", "X.scales": "U8", other: "U8"}))
    with pytest.raises(BadModelFiles, match=r"up_proj\.scales is there twice, in two spellings"):
        stored_names(parts)


def tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor("t", dtype, shape, start=8, size=64)


def test_nvfp4_of_other_tools_is_mlxs_bytes_under_other_types() -> None:
    codes, scales = Part(X, "weight", "modelopt"), Part(X, "scales", "compressed")
    assert in_mlx_types(tensor("U8", 3, 8), codes) == tensor("U32", 3, 2)
    assert in_mlx_types(tensor("F8_E4M3", 3, 1), scales) == tensor("U8", 3, 1)
    assert Part(X, "global_scale", "compressed").inverted
    assert not Part(X, "global_scale", "modelopt").inverted
    for part in (Part(X, "weight"), Part(X, "weight", "blocks"), Part(X)):
        assert in_mlx_types(tensor("U8", 3, 8), part) == tensor("U8", 3, 8)


@pytest.mark.parametrize(
    ("role", "stored", "message"),
    [
        ("weight", tensor("U8", 3, 7), "tensor t: (3, 7) is no matrix of packed codes"),
        ("weight", tensor("U8"), "tensor t: () is no matrix of packed codes"),
        ("global_scale", tensor("BF16", 1), "tensor t is BF16, expected F32"),
    ],
)
def test_what_cannot_be_mlxs_bytes_is_refused(role: Role, stored: Tensor, message: str) -> None:
    with pytest.raises(BadModelFiles) as caught:
        in_mlx_types(stored, Part(X, role, "modelopt"))
    assert str(caught.value) == message
