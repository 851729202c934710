"""mlx-lm's Llama, which is its Mistral too; it has the windows of neither."""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.attention import rotate_in_part
from tests.parts.references.spelling import spelled


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        model = mlx_lm.build("llama", config)
        rotate_in_part(model, self.case, config["rope_theta"])
        return model
