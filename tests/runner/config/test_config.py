"""The table of architectures and the reading of config.json: every refusal is one line that names the thing."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models import ARCHITECTURES, build
from runner.models.base import Model
from tests.parts import refusals
from tests.parts.case import REQUIRED, TINY

LLAMA: Config = {**TINY, "architectures": ["LlamaForCausalLM"]}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "../x", "os.path", "llama", "__init__", "", "Llama\nForCausalLM"]
)
def test_an_unknown_architecture_is_named_beside_those_that_we_have(name: str) -> None:
    before = set(sys.modules)
    message = refusals.of_config({**LLAMA, "architectures": [name]}, UnsupportedModel)
    assert message.startswith(f'architecture "{name}"'.replace("\n", "\\n"))
    assert all(known in message for known in ARCHITECTURES)
    assert set(sys.modules) == before, "nothing was imported for it"


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [7], {"0": "LlamaForCausalLM"}, [None]])
def test_architectures_must_be_a_list_of_names(value: Any) -> None:
    assert "architectures is" in refusals.of_config({**LLAMA, "architectures": value}, BadModelFiles)


def test_code_that_a_config_points_to_is_never_looked_at() -> None:
    """Both fields ask other programs to import a file of the model."""
    trap = {"auto_map": {"AutoModel": "evil--modeling.Evil"}, "model_file": "evil.py"}
    model = build({**LLAMA, **trap})
    assert type(model).__module__ == "runner.models.llama"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_of_the_table_builds_a_model(architecture: str) -> None:
    model: Model = build({**LLAMA, "architectures": [architecture]})
    assert (model.vocab_size, model.context_length) == (TINY["vocab_size"], TINY["max_position_embeddings"])
    assert len(model.make_memory().storages) == TINY["num_hidden_layers"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, expected an integer from 1 to 1000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, expected an integer from 1 to 1000"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0, expected an integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true, expected an integer"),
        ({"hidden_size": None}, "hidden_size is missing, expected an integer"),
        ({"hidden_size": "64"}, 'hidden_size is "64", expected an integer'),
        ({"vocab_size": 1 << 40}, "vocab_size is 1099511627776, expected an integer"),
        ({"intermediate_size": -1}, "intermediate_size is -1, expected an integer"),
        ({"num_attention_heads": [6]}, "num_attention_heads is [6], expected an integer"),
        (
            {"num_key_value_heads": 4},
            "num_attention_heads is 6, expected a multiple of num_key_value_heads, 4",
        ),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0, expected an integer from 1"),
        ({"head_dim": 0}, "head_dim is 0, expected an integer from 1"),
        ({"head_dim": None}, "hidden_size is 64, expected a multiple of num_attention_heads, 6"),
        (
            {"head_dim": 15},
            "partial_rotary_factor 1 of head_dim 15 rotates 15 numbers, expected an even number",
        ),
        ({"max_position_embeddings": 1 << 31}, "max_position_embeddings is 2147483648, expected an integer"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a number above 0"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is Infinity, expected a number above 0"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings is "yes", expected true or false'),
        ({"attention_bias": 1}, "attention_bias is 1, expected true or false"),
        ({"hidden_act": 3}, "hidden_act is 3, expected a string"),
        ({"layer_types": "full_attention"}, 'layer_types is "full_attention", expected a list of strings'),
        ({"hidden_size": "x" * 5000}, 'hidden_size is "xxx'),
        ({"head_dim": 4096}, "a head has 4096 numbers, limit 2048"),
        (
            {"hidden_size": 1 << 16, "head_dim": None, "num_attention_heads": 4, "num_key_value_heads": 4},
            "a head has 16384 numbers",
        ),
        ({"hidden_size": nested(5000)}, "hidden_size is list of very many levels, expected an integer"),
    ],
)
def test_a_broken_field_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refusals.of_config(
        {**LLAMA, **changes}, BadModelFiles
    ) or message.startswith("of head")


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported, only silu is'),
        (
            "LlamaForCausalLM",
            {"layer_types": ["sliding_attention"] * 2},
            "LlamaForCausalLM has full_attention only",
        ),
        (
            "MistralForCausalLM",
            {"layer_types": ["chunked_attention"] * 2},
            'layer_types has "chunked_attention"',
        ),
    ],
)
def test_a_feature_that_we_lack_is_refused(architecture: str, changes: Config, message: str) -> None:
    assert message in refusals.of_config(
        {**LLAMA, **changes, "architectures": [architecture]}, UnsupportedModel
    )


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        (
            "Qwen2ForCausalLM",
            {"layer_types": ["full_attention"]},
            "expected a list of num_hidden_layers, 2, names",
        ),
        (
            "Qwen3ForCausalLM",
            {"layer_types": ["sliding_attention"] * 2},
            "(or use_sliding_window) turns it off",
        ),
        (
            "MistralForCausalLM",
            {"layer_types": ["sliding_attention"] * 2, "sliding_window": None},
            "(or use_sliding_window) turns it off",
        ),
        ("MistralForCausalLM", {"sliding_window": 0}, "sliding_window is 0, expected an integer from 1"),
    ],
)
def test_windows_that_contradict_are_refused(architecture: str, changes: Config, message: str) -> None:
    assert message in refusals.of_config({**LLAMA, **changes, "architectures": [architecture]}, BadModelFiles)


@pytest.mark.parametrize("name", REQUIRED)
def test_sizes_are_never_guessed(name: str) -> None:
    config = {field: value for field, value in LLAMA.items() if field != name}
    assert f"config.json: {name} is missing" in refusals.of_config(config, BadModelFiles)


@pytest.mark.parametrize(
    ("architecture", "positions", "kv_heads", "head_dim"),
    [
        ("LlamaForCausalLM", 2048, 64, 16),
        ("MistralForCausalLM", 131_072, 8, 16),
        ("Qwen2ForCausalLM", 32_768, 32, 16),
        ("Qwen3ForCausalLM", 32_768, 32, 128),
        ("Qwen3MoeForCausalLM", 32_768, 4, 16),
    ],
)
def test_an_absent_field_has_the_default_of_transformers(
    architecture: str, positions: int, kv_heads: int, head_dim: int
) -> None:
    """Read in the configuration classes of transformers 5.23; files leave out what equals them."""
    sizes = {name: TINY[name] for name in REQUIRED}
    heads = {"hidden_size": 1024, "num_attention_heads": 64}
    model: Any = build({**sizes, **heads, "architectures": [architecture]})
    attention = model.model.layers[0].self_attn
    assert model.context_length == positions
    assert attention.k_proj.weight.shape == (kv_heads * head_dim, 1024)
    assert not model.tied
    assert model.model.norm.eps == 1e-6
    assert ("bias" in attention.q_proj, "bias" in attention.o_proj) == (
        architecture == "Qwen2ForCausalLM",
        False,
    )
