"""mlx-lm's Llama, which is its Mistral too; it has the windows of neither."""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.spelling import spelled


class Reference(base.Reference):
    def build(self) -> Any:
        return mlx_lm.build("llama", spelled(self.case.text))
