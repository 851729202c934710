"""mlx-lm's SmolLM3. It has the theta of its Llama by default, and wants a list of the layers' number exactly."""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.spelling import spelled


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        flags = config.get("no_rope_layers")
        config["rope_theta"] = config.get("rope_theta") or 2_000_000.0
        config["no_rope_layers"] = flags and flags[: config["num_hidden_layers"]]
        return mlx_lm.build("smollm3", config)
