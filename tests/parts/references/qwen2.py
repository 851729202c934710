"""mlx-lm's Qwen2. It overlooks head_dim; its Llama with biases is the same otherwise.

Such a Llama has a bias behind attention: it is 0 here and kept from us.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.spelling import spelled

FOREIGN = ".self_attn.o_proj.bias"


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        if config.get("head_dim"):
            return mlx_lm.build("llama", {**config, "attention_bias": True})
        return mlx_lm.build("qwen2", config)

    def draw(self) -> base.Tensors:
        weights = super().draw()
        foreign = {name: mx.zeros(array.shape) for name, array in weights.items() if name.endswith(FOREIGN)}
        return weights | foreign

    def checkpoint(self) -> base.Tensors:
        return {name: array for name, array in self.weights.items() if not name.endswith(FOREIGN)}
