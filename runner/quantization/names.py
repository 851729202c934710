"""The names that the tensors of a quantized matrix X have in files.

    role          mlx             blocks      modelopt            compressed
    weight        X.weight        X_blocks    X.weight            X.weight_packed
    scales        X.scales        X_scales    X.weight_scale      X.weight_scale
    biases        X.biases
    global_scale  X.global_scale              X.weight_scale_2    X.weight_global_scale

`mlx` is MLX's own, which mlx-community checkpoints have. Ollama's store has the same bytes as X.weight,
X.weight.scale, X.weight.bias, and for the factor K.global_scale or K_scale_2, K being X.weight or X; that counts as
another spelling of MLX's. A linear layer's own bias is X.bias in all. `blocks` is OpenAI's, of gpt-oss; `modelopt`
and `compressed` (compressed-tensors) are other tools'. What the bytes of a layout are: `collect.py`.

Knows nothing about arrays, architectures or what is written beside tensors.
"""

from __future__ import annotations

from typing import Literal

Role = Literal["weight", "scales", "biases", "global_scale"]
Layout = Literal["mlx", "blocks", "modelopt", "compressed"]

ROLES: tuple[Role, ...] = ("weight", "scales", "biases", "global_scale")
ENDINGS: dict[Layout, dict[Role, str]] = {
    "mlx": {role: f".{role}" for role in ROLES},
    "blocks": {"weight": "_blocks", "scales": "_scales"},
    "modelopt": {"weight": ".weight", "scales": ".weight_scale", "global_scale": ".weight_scale_2"},
    "compressed": {
        "weight": ".weight_packed",
        "scales": ".weight_scale",
        "global_scale": ".weight_global_scale",
    },
}
WEIGHT, SCALES, BIASES, GLOBAL = (ENDINGS["mlx"][role] for role in ROLES)
COMPANIONS = (SCALES, BIASES, GLOBAL)
# What the store's names have behind `X.weight`, as it writes them now.
IN_THE_STORE: dict[Role, str] = {
    "weight": "",
    "scales": ".scale",
    "biases": ".bias",
    "global_scale": ".global_scale",
}
STORE_SPELLING = {f"{WEIGHT}{IN_THE_STORE[role]}": f".{role}" for role in ROLES[1:]} | {
    ".weight_scale_2": GLOBAL,
    "_scale_2": GLOBAL,
}
IGNORED = (".input_scale", ".input_global_scale")  # for quantized activations, which we do not have
PREFIXES = ("model.language_model.", "language_model.model.")  # what multimodal checkpoints have for "model."


def in_mlx_spelling(name: str) -> str:
    """A tensor's name as MLX has it, from either spelling."""
    for ending, ours in STORE_SPELLING.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + ours
    return name


def own_path(path: str) -> str:
    """The path that models rename it to, unless they do more than take a prefix away."""
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return f"model.{path.removeprefix(prefix)}"
    return path.removeprefix("language_model.")
