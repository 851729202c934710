"""mlx-lm's gpt-oss, which has no flag of a tied head. Its reader takes packed experts only."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.spelling import spelled


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        model = mlx_lm.build("gpt_oss", config)
        if config["tie_word_embeddings"]:
            model.pop("lm_head")
        return model

    def checkpoint(self) -> base.Tensors:
        return gate_and_up_together(self.weights)


def gate_and_up_together(weights: base.Tensors) -> base.Tensors:
    """Experts as Hugging Face's checkpoints have them: rows are inputs, columns gate and up in turn."""
    made: base.Tensors = {}
    for name, array in weights.items():
        path, dot, last = name.rpartition(".experts.")
        up = weights[name.replace("gate_proj", "up_proj")]
        if not dot:
            made[name] = array
        elif last == "gate_proj.weight":
            both = mx.stack([array, up], axis=2).flatten(1, 2)
            made[f"{path}.experts.gate_up_proj"] = both.swapaxes(1, 2)
        elif last == "gate_proj.bias":
            made[f"{path}.experts.gate_up_proj_bias"] = mx.stack([array, up], axis=2).flatten(1, 2)
        elif last == "down_proj.weight":
            made[f"{path}.experts.down_proj"] = array.swapaxes(1, 2)
        elif last == "down_proj.bias":
            made[f"{path}.experts.down_proj_bias"] = array
    return made
