"""Kinds of layers."""

from __future__ import annotations

from runner.config.fields import Config

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
MIXED: Config = {"layer_types": [FULL, SLIDING]}
WINDOWED: Config = {"use_sliding_window": True, "sliding_window": 9}
