"""Scalings of rotary positions, in both spellings."""

from __future__ import annotations

from runner.config.fields import Config

ORIGINAL = {"original_max_position_embeddings": 64}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
OLDER: dict[str, Config] = {
    "default": {"rope_scaling": None, "partial_rotary_factor": None},
    "theta": {"rope_theta": 1e6},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "llama3": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}},
}
NEWER: dict[str, Config] = {
    "theta": {"rope_theta": 1e6, "rope_type": "default"},
    "linear": {"rope_theta": 1e6, "rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_theta": 1e6, "rope_type": "dynamic", "factor": 4.0},
    "llama3": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, **ORIGINAL},
}
MSCALES: Config = {
    "type": "yarn",
    "factor": 4.0,
    **ORIGINAL,
    "mscale": 0.7,
    "mscale_all_dim": 0.4,
    "beta_fast": 8,
    "beta_slow": 2,
}
