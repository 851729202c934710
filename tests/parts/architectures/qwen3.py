"""Qwen3. It has a default of its own where a config has no head_dim."""

from __future__ import annotations

from tests.parts.architectures.layers import MIXED, WINDOWED
from tests.parts.architectures.relatives import common_cases
from tests.parts.case import Case

NAME = "Qwen3ForCausalLM"
CASES = [
    *common_cases("Qwen3", without=("no head_dim",)),
    Case("Qwen3 attention_bias", NAME, {"sliding_window": None, "attention_bias": True}),
    Case("Qwen3 window", NAME, {**WINDOWED, "max_window_layers": 0}, windows=(9, 9)),
    Case("Qwen3 mixed window", NAME, {**WINDOWED, **MIXED}, windows=(None, 9)),
]
