"""What mlx-lm's own converter quantized, in floats and packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.layers.packed import PackedMatrix
from runner.models import zoo
from tests.parts import mlx_lm
from tests.parts.arrays import difference
from tests.parts.models import loaded, logits
from tests.parts.zoo import CASES, TOKENS, write

TOLERANCE = 1e-4


def quantized(folder: Path, name: str, *, bits: int, mode: str = "affine", **changes: Any) -> Path:
    """As mlx-lm's own converter writes them."""
    from mlx_lm.utils import quantize_model, save_model

    write(folder, name, **changes)
    model = mlx_lm.loaded(folder)
    config = json.loads((folder / "config.json").read_text())
    group_size = {"affine": 64, "nvfp4": 16}.get(mode, 32)
    model, config = quantize_model(model, config, group_size, bits, mode=mode)
    (folder / "model.safetensors").unlink()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["floats", "packed"])
@pytest.mark.parametrize(
    ("name", "bits", "mode"),
    [
        ("Cohere2ForCausalLM", 4, "affine"),
        ("DeepseekV3ForCausalLM", 4, "affine"),
        ("LagunaForCausalLM", 4, "affine"),
        ("LagunaForCausalLM", 4, "mxfp4"),
        ("Mamba2ForCausalLM", 8, "affine"),
        ("NemotronHForCausalLM", 4, "affine"),
        ("OlmoeForCausalLM", 8, "mxfp8"),
        ("OlmoeForCausalLM", 4, "nvfp4"),
        ("Phi3ForCausalLM", 4, "affine"),
    ],
)
def test_what_mlx_lm_quantized_gives_the_logits_of_mlx_lm(
    tmp_path: Path, name: str, bits: int, mode: str, packed: bool
) -> None:
    """Dense layers, embeddings, heads and experts, some kept at other widths than the rest."""
    folder = quantized(tmp_path / "model", name, bits=bits, mode=mode, intermediate_size=64)
    model = loaded(folder, packed=packed).model
    assert difference(logits(model, TOKENS), mlx_lm.logits(folder, TOKENS)) < TOLERANCE
    assert isinstance(model, zoo.Model)
    stay = [path for path, module in model.named_modules() if "scales" in module]
    assert (len(stay) > 3) == packed
    assert any(isinstance(module, PackedMatrix) for _, module in model.named_modules()) == packed
    if {"num_experts", "n_routed_experts"} & CASES[name].keys():
        assert any("switch_mlp" in path or "experts" in path for path in stay) == packed
