"""Short ways to read rope fields and to see what they mean."""

from __future__ import annotations

from runner.config.fields import Config, Fields
from runner.config.rope import RopeConfig

D = 16
POSITIONS = 256
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PROPORTIONAL = {"rope_type": "proportional", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def read(config: Config) -> RopeConfig:
    return RopeConfig.read(Fields(config), D, POSITIONS, partial=True)


def frequencies(config: RopeConfig) -> list[float]:
    """Radians per position of each pair."""
    if config.periods is not None:
        return [1 / period for period in config.periods]
    return [config.scale / config.theta ** (i / config.dims) for i in range(0, config.dims, 2)]
