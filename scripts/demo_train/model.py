"""A Llama small enough to train in minutes, with the names of Hugging Face's checkpoints.

    B  batch    L  positions    E  hidden size    H  query heads    K  key/value heads    D  width of a head

Weights are float32 while training; every product runs in `dtype`. Training looks at whole rows; a list of
(keys, values) makes the same module generate.
Knows nothing about text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.layers.nn import Module, silu

Cache = list[tuple[mx.array, mx.array] | None]


@dataclass(frozen=True)
class Shape:
    """The sizes of the demo model.

    Heads of 64 have fused attention kernels everywhere, many of them copy better than few (a name, a letter), and
    widths that 64 divides suit every quantization.
    """

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 576
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    context_length: int = 8192

    def config(self) -> dict[str, Any]:
        """The config.json of transformers."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.context_length,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": 0,
            "rms_norm_eps": self.norm_eps,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": self.vocab_size,
        }


class Linear(Module):
    """A product with float32 weights in the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, scale: float = 0.02) -> None:
        super().__init__()
        self.weight = mx.random.normal((outputs, inputs)) * scale

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.astype(x.dtype).T


class RMSNorm(Module):
    """The usual norm, its weight in the dtype of its input."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((size,))
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight.astype(x.dtype), self._eps)


class Attention(Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._heads, self._kv_heads, self._theta = shape.heads, shape.kv_heads, shape.rope_theta
        self._width = shape.head_dim
        self.q_proj = Linear(shape.hidden_size, shape.heads * self._width)
        self.k_proj = Linear(shape.hidden_size, shape.kv_heads * self._width)
        self.v_proj = Linear(shape.hidden_size, shape.kv_heads * self._width)
        self.o_proj = Linear(shape.heads * self._width, shape.hidden_size, 0.02 / (2 * shape.layers) ** 0.5)

    def __call__(self, x: mx.array, cache: Cache | None, layer: int) -> mx.array:
        B, L, _ = x.shape
        past = cache[layer] if cache is not None else None
        offset = past[0].shape[2] if past is not None else 0
        q = self.q_proj(x).reshape(B, L, self._heads, -1).transpose(0, 2, 1, 3)  # [B,H,L,D]
        k = self.k_proj(x).reshape(B, L, self._kv_heads, -1).transpose(0, 2, 1, 3)  # [B,K,L,D]
        v = self.v_proj(x).reshape(B, L, self._kv_heads, -1).transpose(0, 2, 1, 3)
        q, k = (
            mx.fast.rope(y, self._width, traditional=False, base=self._theta, scale=1.0, offset=offset)
            for y in (q, k)
        )
        if past is not None:
            k, v = mx.concatenate([past[0], k], axis=2), mx.concatenate([past[1], v], axis=2)
        if cache is not None:
            cache[layer] = (k, v)
        mask = "causal" if L > 1 else None
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._width**-0.5, mask=mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, L, -1))


class MLP(Module):
    """The gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size, 0.02 / (2 * shape.layers) ** 0.5)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Block(Module):
    """One layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)

    def __call__(self, x: mx.array, cache: Cache | None, layer: int) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(Module):
    """Embedding, layers and last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = Linear(shape.hidden_size, shape.vocab_size)  # its weight is [V,E], used both ways
        self.layers = [Block(shape) for _ in range(shape.layers)]
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)


class Llama(Module):
    """Token ids [B,L] -> logits [B,L,V]."""

    def __init__(self, shape: Shape, dtype: mx.Dtype = mx.float32) -> None:
        super().__init__()
        self.model = Stack(shape)
        self._shape, self._dtype = shape, dtype

    def __call__(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        x = self.model.embed_tokens.weight[tokens].astype(self._dtype)  # [B,L,E]
        for layer, block in enumerate(self.model.layers):
            x = block(x, cache, layer)
        return self.model.embed_tokens(self.model.norm(x))

    def new_cache(self) -> Cache:
        """An empty cache, one place for each layer."""
        return [None] * self._shape.layers


def parameters_of(model: Module) -> dict[str, mx.array]:
    """The parameters by name."""
    tree = model.parameters()  # type: ignore[no-untyped-call]  # no types in MLX
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def parameter_count(model: Module) -> int:
    """How many numbers the model has."""
    return sum(value.size for value in parameters_of(model).values())


def write_model(model: Llama, shape: Shape, folder: Path) -> None:
    """model.safetensors in bfloat16, config.json and generation_config.json."""
    weights = {name: value.astype(mx.bfloat16) for name, value in parameters_of(model).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    generation = {
        "bos_token_id": 1,
        "do_sample": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "temperature": 0.6,
        "top_p": 0.9,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def read_model(folder: Path, dtype: mx.Dtype = mx.float32) -> Llama:
    """The model of a folder that `write_model` wrote."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        context_length=config["max_position_embeddings"],
    )
    model = Llama(shape, dtype)
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    model.load_weights([(name, value.astype(dtype)) for name, value in weights.items()])
    return model
