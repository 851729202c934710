"""Rope fields read: where they may stand, what they mean, which are refused."""

from __future__ import annotations

import math

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, UnsupportedModel
from tests.parts.rope import LLAMA3, POSITIONS, PROPORTIONAL, YARN, frequencies, read

# Computed by transformers 5.23 (modeling_rope_utils.py): inverse frequencies, factor of cosines and sines.
PINNED: list[tuple[str, Config, list[float], float]] = [
    (
        "llama3",
        {"rope_theta": 5e5, **LLAMA3, "original_max_position_embeddings": 64},
        [1, 0.07940301, 0.004700754, 0.0009115831, 0.0001767767, 3.428102e-05, 6.647871e-06, 1.289173e-06],
        1.0,
    ),
    (
        "yarn",
        YARN,
        [1, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.138629436111989,
    ),
    (
        "yarn untruncated, with its own factor",
        {**YARN, "truncate": False, "attention_factor": 1.3},
        [1, 0.1985835, 0.02559525, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.3,
    ),
    (
        "yarn with one mscale, which counts for nothing alone",
        {**YARN, "mscale": 0.5},
        [1, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.138629436111989,
    ),
    (
        "yarn with both mscales",
        {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0},
        [1, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        0.939124428143471,
    ),
    (
        "yarn with the factor left to the context lengths",
        {**YARN, "factor": None},
        [1, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.138629436111989,
    ),
]


@pytest.mark.parametrize(
    ("config", "inverse", "magnitude"), [p[1:] for p in PINNED], ids=[p[0] for p in PINNED]
)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_scaled_frequencies_are_those_of_transformers(
    config: Config, inverse: list[float], magnitude: float, spelling: str
) -> None:
    """Where mlx-lm differs (no attention_factor, no truncate, one mscale alone counts), this decides."""
    made = read({spelling: config})
    assert frequencies(made) == pytest.approx(inverse, rel=1e-6)
    assert made.magnitude == pytest.approx(magnitude)


def test_where_the_fields_may_stand() -> None:
    """Inside wins over beside; the older name of the object wins over the newer; rope_type wins over type."""
    assert read({"rope_theta": 5e5}).theta == 5e5
    assert (
        read({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}}).theta == 7e5
    )
    assert read({"rope_parameters": {"rope_theta": 7e5}, "rope_scaling": {}}).theta == 7e5
    assert read({"rope_parameters": {"rope_type": "default"}}).theta == 10_000
    both: Config = {"rope_parameters": {"factor": 2.0, "type": "linear"}}
    assert read({**both, "rope_scaling": {"factor": 4.0, "type": "linear"}}).scale == 0.25
    assert read({"rope_scaling": {"factor": 4.0, "type": "yarn", "rope_type": "linear"}}).scale == 0.25
    assert read({"partial_rotary_factor": 1.0, "rope_scaling": {"partial_rotary_factor": 0.5}}).dims == 8


def test_the_original_context_defaults_to_the_whole_and_may_stand_beside() -> None:
    yarn = {"type": "yarn", "factor": 4.0}
    name = "original_max_position_embeddings"
    assert read({"rope_scaling": yarn}) == read({"rope_scaling": {**yarn, name: POSITIONS}})
    assert read({"rope_scaling": {**yarn, name: 32}, name: 64}) == read({"rope_scaling": {**yarn, name: 64}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"rope_scaling": {"type": "longrope"}},
            'rope_scaling of type "longrope" is not supported; these are: ',
        ),
        ({"rope_parameters": {"rope_type": "../yarn"}}, 'rope_parameters of type "../yarn" is not supported'),
        ({"rope_scaling": {"type": "dynamic", "alpha": 2}}, 'has a field that is not supported: "alpha"'),
        ({"rope_parameters": {"full_attention": {}}}, 'a field that is not supported: "full_attention"'),
    ],
)
def test_what_is_not_defined_here_is_refused(config: Config, message: str) -> None:
    with pytest.raises(UnsupportedModel) as raised:
        read(config)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": "yarn"}, 'config.json: rope_scaling is "yarn", expected an object'),
        ({"rope_theta": 1}, "config.json: rope_theta is 1, expected a number above 1"),
        ({"rope_theta": "10000"}, 'config.json: rope_theta is "10000", expected a number above 1'),
        ({"rope_theta": math.nan}, "config.json: rope_theta is NaN, expected a number above 1"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing, expected a number above 0"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0}},
            "config.json: rope_scaling: factor is 0, expected a number above 0",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": True}}, "factor is true, expected a number above 0"),
        (
            {"rope_scaling": {"type": 7, "factor": 2}},
            "config.json: rope_scaling: type is 7, expected a string",
        ),
        ({"rope_scaling": {**YARN, "mscale": -1}}, "mscale is -1, expected a number of at least 0"),
        ({"rope_scaling": {**YARN, "truncate": 1}}, "truncate is 1, expected true or false"),
        (
            {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
            "high_freq_factor is 1.0, expected a number above low_freq_factor, 1",
        ),
        (
            {"partial_rotary_factor": 0.3125},
            "partial_rotary_factor 0.3125 of head_dim 16 rotates 5 numbers, expected an even number from 2 to 16",
        ),
        ({"partial_rotary_factor": 1.5}, "rotates 24 numbers, expected an even number from 2 to 16"),
        (
            {"rope_parameters": {**PROPORTIONAL, "partial_rotary_factor": 1.5}},
            "rope_parameters: partial_rotary_factor is 1.5, expected a number up to 1",
        ),
    ],
)
def test_a_broken_field_is_one_line_that_names_it(config: Config, message: str) -> None:
    with pytest.raises(BadModelFiles) as raised:
        read(config)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
