"""Configs as mlx-lm spells them."""

from __future__ import annotations

from runner.config.fields import Config


def spelled(config: Config) -> Config:
    """mlx-lm's Llama and Qwen2 do not know `rope_parameters`, its Qwen3 wants a theta, none knows the defaults."""
    config = {name: value for name, value in config.items() if name not in ("layer_types", "sliding_window")}
    scaling = config.pop("rope_parameters", None) or config.get("rope_scaling")
    if scaling:
        plain = scaling.get("rope_type", scaling.get("type")) == "default"
        config["rope_theta"] = scaling.get("rope_theta", config.get("rope_theta"))
        config["rope_scaling"] = None if plain else scaling
    return config
