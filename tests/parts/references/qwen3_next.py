"""mlx-lm's Qwen3-Next, which does not know `rope_parameters`."""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references.hybrids import Hybrid


class Reference(Hybrid):
    def build(self) -> Any:
        rope = self.rope
        flat = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor")}
        scaling = None if rope["rope_type"] == "default" else rope
        model = mlx_lm.build("qwen3_next", {**self.config, **flat, "rope_scaling": scaling})
        self.replace_layers(model, mlx_lm.architecture("qwen3_next").Qwen3NextDecoderLayer)
        return model
