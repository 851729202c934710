"""mlx-lm's Qwen3, which has no attention_bias."""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.attention import add_biases
from tests.parts.references.spelling import spelled


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        model = mlx_lm.build("qwen3", config)
        if config.get("attention_bias"):
            add_biases(model)
        return model
