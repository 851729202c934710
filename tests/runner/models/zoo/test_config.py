"""What we read of the configs of mlx-lm's architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.config.fields import Config
from runner.models import zoo
from tests.parts.zoo import DECODER, config_of, ours

PHI3 = config_of("Phi3ForCausalLM")


def test_infinities_are_read_in_transformers_spelling(folders: dict[str, Path]) -> None:
    model: Any = ours(folders["Mamba2ForCausalLM"])
    assert model._theirs.args.time_step_limit == [0.0, float("inf")]


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length"])
def test_the_context_is_what_the_config_says(name: str) -> None:
    config = {**PHI3, "max_position_embeddings": None, name: 777}
    assert zoo.Model(config, "phi3").context_length == 777


def test_a_recurrent_model_that_names_no_limit_gets_one() -> None:
    config = {**config_of("Mamba2ForCausalLM"), "max_position_embeddings": None}
    assert zoo.Model(config, "mamba2").context_length == zoo.UNSTATED_POSITIONS


def test_the_text_part_of_a_multimodal_config_counts() -> None:
    text = {**DECODER, "vocab_size": 290, "max_position_embeddings": 128, "model_type": "llama"}
    model = zoo.Model(
        {"model_type": "mistral3", "text_config": text, "max_position_embeddings": 5}, "mistral3"
    )
    assert (model.vocab_size, model.context_length) == (290, 128)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"sliding_window": 40}, 40),
        ({"sliding_window": 40, "use_sliding_window": False}, 256),
        ({"sliding_window": 0}, 256),
        ({"sliding_window": 4096}, 256),
    ],
)
def test_a_window_that_mlx_lm_overlooks_is_never_left(
    fields: Config, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert zoo.Model({**PHI3, **fields}, "phi3").context_length == length
    assert ("Context cut" in caplog.text) == (length == 40)


def test_a_window_that_mlx_lm_honours_limits_nothing(folders: dict[str, Path]) -> None:
    assert ours(folders["Cohere2ForCausalLM"]).context_length == 256


def test_what_mlx_lm_prints_is_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.Model({**PHI3, "rope_scaling": {"type": "yarn", "long_factor": [1.0]}}, "phi3")
    (record,) = caplog.records
    assert vars(record)["said"].startswith("[WARNING] rope_scaling 'type' currently only supports")
    assert capsys.readouterr().out == ""
