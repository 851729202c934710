"""mlx-lm's Qwen3.5, which has a theta of its own by default. The text model is taken out of its multimodal one."""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references.hybrids import Hybrid


class Reference(Hybrid):
    kind = "qwen3_5"

    def build(self) -> Any:
        whole = mlx_lm.build(self.kind, {**self.config, "rope_parameters": self.rope})
        model = whole.language_model
        self.replace_layers(model, mlx_lm.architecture("qwen3_5").DecoderLayer)
        return model
