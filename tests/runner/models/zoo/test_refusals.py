"""What of mlx-lm's architectures is refused, and how."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, LoadError, UnsupportedModel
from runner.models import ARCHITECTURES, build, zoo
from tests.parts.models import loaded
from tests.parts.refusals import one_line
from tests.parts.zoo import config_of, ours, weights, write

PHI3 = config_of("Phi3ForCausalLM")


def refusal(config: Config) -> str:
    """With the error's name."""
    with pytest.raises(LoadError) as caught:
        build(config)
    return f"{type(caught.value).__name__}: {one_line(caught.value)}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, 'has no model_type "bert" either'),
        ({"model_type": "../phi3"}, 'has no model_type "../phi3" either'),
        ({"model_type": "phi3.phi3"}, 'has no model_type "phi3.phi3" either'),
        ({"model_type": None}, [*ARCHITECTURES][-1]),
        ({"model_type": "llama"}, [*ARCHITECTURES][-1]),
        (
            {"hidden_size": "wide"},
            "BadModelFiles: config.json: mlx-lm's phi3 cannot be built from it:"
            " unsupported operand type(s) for /: 'int' and 'str' (TypeError)",
        ),
        (
            {"num_attention_heads": 0},
            "BadModelFiles: config.json: mlx-lm's phi3 cannot be built from it:"
            " integer division or modulo by zero (ZeroDivisionError)",
        ),
        (
            {"num_hidden_layers": 10**9},
            "BadModelFiles: config.json: num_hidden_layers is 1000000000, expected an integer from 1 to 1000",
        ),
        (
            {"vocab_size": None},
            "BadModelFiles: config.json: vocab_size is missing, expected an integer from 1 to 16777216",
        ),
        (
            {"model_type": "bitnet"},
            "UnsupportedModel: mlx-lm's bitnet has packed weights of its own kind"
            " (model.layers.0.self_attn.q_proj.weight)",
        ),
    ],
)
def test_what_mlx_lm_cannot_run_is_one_line(changes: Config, message: str) -> None:
    assert refusal({**PHI3, **changes}).endswith(message)


def test_a_field_that_mlx_lm_wants_is_named() -> None:
    config = config_of("GraniteForCausalLM")
    del config["logits_scaling"]
    assert "'logits_scaling' (TypeError)" in refusal(config)


def test_code_that_a_model_brings_along_is_not_looked_at(tmp_path: Path) -> None:
    """mlx-lm would run it, if it was told that it may."""
    folder = write(tmp_path / "model", "Phi3ForCausalLM")
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    config = {**PHI3, "model_file": "modeling.py", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert ours(folder).vocab_size == 300
    config["model_type"] = "modeling"
    assert refusal(config).endswith('has no model_type "modeling" either')


def test_tensors_must_be_there_under_mlx_lms_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "Phi3ForCausalLM")
    tensors = weights(PHI3)
    norm = tensors.pop("model.norm.weight")
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | {"model.norm.bias": norm})
    with pytest.raises(BadModelFiles, match=r"^missing tensors: model.norm.weight$"):
        loaded(folder)


def test_what_mlx_lm_cannot_sort_out_is_one_line(tmp_path: Path) -> None:
    """An expert is missing between the others, where mlx-lm puts them together."""
    folder = write(tmp_path / "model", "OlmoeForCausalLM")
    tensors = weights(config_of("OlmoeForCausalLM"))
    name = "model.layers.0.mlp.{}.up_proj.weight"
    experts = tensors.pop(name.format("switch_mlp"))
    tensors |= {name.format(f"experts.{number}"): experts[number] for number in (0, 1, 2, 4, 5)}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(
        BadModelFiles, match=r"^mlx-lm's olmoe cannot take these tensors: .*experts.3.*Error\)$"
    ):
        loaded(folder)


def test_more_logits_than_the_vocabulary_has_are_refused() -> None:
    model = zoo.Model(PHI3, "phi3")
    model.vocab_size = 280
    with pytest.raises(UnsupportedModel, match="vocab_size is 280, but mlx-lm's phi3 has logits for 300"):
        model.load_weights([], strict=False)


def test_rotary_positions_that_mlx_lm_cannot_do_are_refused() -> None:
    rope = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}
    message = refusal(config_of("Olmo2ForCausalLM", rope_parameters=rope))
    assert message.startswith("UnsupportedModel: config.json: rope_parameters {")
    assert message.endswith("are more than mlx-lm's olmo2 can do")
