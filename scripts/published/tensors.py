"""The tensors of a Llama in a GGUF file, Q4_1, as Hugging Face and MLX have them.

MLX reads matrices as they are packed: in 4 bits, the embedding in 8, both affine by 32. What GGUF has otherwise is
undone: names, and the order of rows in q_proj and k_proj, which llama.cpp wants for its rotary positions.

Knows nothing about files other than that one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

GROUP_SIZE, BITS, EMBEDDING_BITS = 32, 4, 8
EMBEDDING = "model.embed_tokens"
OUTSIDE = {"token_embd": EMBEDDING, "output_norm": "model.norm"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

Arrays = dict[str, mx.array]


def read_gguf(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Tensors, and the metadata as plain values."""
    mx.set_default_device(mx.cpu)  # where float32 is float32
    loaded: Any = mx.load(str(path), return_metadata=True)
    arrays, metadata = loaded
    return arrays, {
        key: value.tolist() if isinstance(value, mx.array) else value for key, value in metadata.items()
    }


def in_hugging_face_form(arrays: Arrays, heads: int, kv_heads: int) -> Arrays:
    """Renamed, with rows in order. Norms become float16, as the scales are, which holds them exactly."""
    ordered = {"attn_q": heads, "attn_k": kv_heads}
    made: Arrays = {}
    for name, array in arrays.items():
        path, part = name.rsplit(".", 1)
        if path not in OUTSIDE:
            _, layer, kind = path.split(".")
            if kind in ordered:
                array = in_halves(array, ordered[kind])
            path = f"model.layers.{layer}.{IN_LAYER[kind]}"
        made[f"{OUTSIDE.get(path, path)}.{part}"] = (
            array.astype(mx.float16) if array.dtype == mx.float32 else array
        )
    return made


def in_halves(rows: mx.array, heads: int) -> mx.array:
    """The rows of each head of width D, stored as 0, D/2, 1, D/2 + 1, ..., in order. A packed row is one row."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def dequantized(packed: Arrays) -> Arrays:
    """All of it as float32, which holds every number of the packed matrices exactly."""
    dense: Arrays = {}
    for name, array in packed.items():
        path, part = name.rsplit(".", 1)
        if part != "weight":
            continue
        if f"{path}.scales" in packed:
            scales, biases = (packed[f"{path}.{it}"].astype(mx.float32) for it in ("scales", "biases"))
            bits = EMBEDDING_BITS if path == EMBEDDING else BITS
            dense[name] = mx.dequantize(array, scales, biases, group_size=GROUP_SIZE, bits=bits)
        else:
            dense[name] = array.astype(mx.float32)
    return dense


def quantization() -> dict[str, Any]:
    """What config.json says of the packed matrices."""
    embedding = {"group_size": GROUP_SIZE, "bits": EMBEDDING_BITS}
    return {"group_size": GROUP_SIZE, "bits": BITS, EMBEDDING: embedding}
