"""mlx-lm's Qwen3.5-MoE, which is its Qwen3.5 with experts."""

from __future__ import annotations

from tests.parts.references import qwen3_5


class Reference(qwen3_5.Reference):
    kind = "qwen3_5_moe"
