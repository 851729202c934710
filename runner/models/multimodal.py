"""Names of tensors in multimodal checkpoints, of which only the text part runs here.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.errors import BadModelFiles


def text_part(weights: dict[str, mx.array], media: tuple[str, ...]) -> dict[str, mx.array]:
    """Without what is under the `media` prefixes, and with `model.` for `model.language_model.`."""
    kept: dict[str, mx.array] = {}
    for name, array in weights.items():
        if media and name.removeprefix("model.").startswith(media):
            continue
        moved = name.removeprefix("model.language_model.")
        older = name if moved == name else f"model.{moved}"
        if older in kept:
            raise BadModelFiles(f"tensor {older} is there twice, once as model.language_model.{moved}")
        kept[older] = array
    return kept
