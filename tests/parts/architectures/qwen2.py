"""Qwen2."""

from __future__ import annotations

from tests.parts.architectures.layers import MIXED, WINDOWED
from tests.parts.architectures.relatives import common_cases
from tests.parts.case import Case

NAME = "Qwen2ForCausalLM"
CASES = [
    *common_cases("Qwen2"),
    Case("Qwen2 window", NAME, {**WINDOWED, "max_window_layers": 1}, windows=(None, 9)),
    Case("Qwen2 window above all layers", NAME, WINDOWED),
    Case("Qwen2 window unused", NAME, {"sliding_window": 9, "max_window_layers": 0}),
    Case("Qwen2 mixed window", NAME, {**WINDOWED, **MIXED}, windows=(None, 9)),
]
