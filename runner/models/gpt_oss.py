"""OpenAI's gpt-oss, and what was published in its shape (GptOssForCausalLM).

All MLPs are mixtures of experts with biases and a clamped SwiGLU; every second layer sees a window only; and each
head has a sink, one more score in its softmax that no value belongs to.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from runner.cache.memory import Memory
from runner.cache.rotating import RotatingKVCache
from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_windows
from runner.config.fields import MAX_EXPERTS, MAX_POSITIONS, Config, Fields
from runner.config.rope import RopeConfig
from runner.errors import BadModelFiles
from runner.layers import moe, nn
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import CausalLM, storages
from runner.layers.rope import Rope
from runner.layers.shards import BY_WIDTH, Cut, Shards, Side, Unit

DEFAULTS: Config = {"rms_norm_eps": 1e-5, "rope_theta": 150_000.0}
DEFAULT_ROPE: Config = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class GptOssConfig:
    decoder: DecoderConfig
    rope: RopeConfig
    windows: tuple[int | None, ...]
    attention_bias: bool
    experts: int  # N
    active: int  # A
    alpha: float
    limit: float

    @classmethod
    def read(cls, fields: Fields) -> GptOssConfig:
        fields = fields.with_values(_with_defaults(fields.values))
        head_dim = None if "head_dim" in fields else 64  # null means hidden_size / heads
        decoder = DecoderConfig.read(fields, positions=131_072, kv_heads=8, head_dim=head_dim)
        experts = fields.integer(
            "num_local_experts", fields.integer("num_experts", 128, high=MAX_EXPERTS), high=MAX_EXPERTS
        )
        active = fields.integer("num_experts_per_tok", 4, high=MAX_EXPERTS)
        if active > experts:
            raise BadModelFiles(
                f"config.json: num_experts_per_tok is {active}, but there are {experts} experts"
            )
        return cls(
            decoder=decoder,
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
            windows=read_alternate_windows(fields, decoder),
            attention_bias=fields.flag("attention_bias", True),
            experts=experts,
            active=active,
            alpha=fields.number("swiglu_alpha", 1.702),
            limit=fields.number("swiglu_limit", 7.0),
        )


def _with_defaults(config: Config) -> Config:
    """Where this architecture's defaults are not those of the others."""
    values = config | {name: value for name, value in DEFAULTS.items() if config.get(name) is None}
    if not config.get("rope_scaling") and not config.get("rope_parameters"):
        values["rope_parameters"] = DEFAULT_ROPE
    return values


def read_alternate_windows(fields: Fields, decoder: DecoderConfig) -> tuple[int | None, ...]:
    """The first layer sees a window, the second everything, and so on."""
    named = "sliding_window" in fields
    window = fields.optional_integer("sliding_window", high=MAX_POSITIONS) if named else 128
    default = [FULL if layer % 2 else SLIDING for layer in range(decoder.num_hidden_layers)]
    return read_windows(fields, decoder, window, default)


class SinkAttention(Attention):
    """Grouped-query attention with a sink for each head."""

    def __init__(self, config: GptOssConfig, layer: int, rope: Rope) -> None:
        bias = config.attention_bias
        super().__init__(config.decoder, layer, rope, qkv_bias=bias, o_bias=bias)
        self.sinks = mx.zeros(config.decoder.num_attention_heads)

    def shards(self) -> Shards:
        said = super().shards()
        return said._replace(cuts={**said.cuts, "sinks": Cut(Side.FIRST, Unit.HEADS)})

    def sink_logits(self, dtype: mx.Dtype) -> mx.array | None:
        return self.sinks.astype(dtype)


class Experts(moe.Experts):
    """Experts whose projections have biases, named apart so that packed weights can take the others' places."""

    def __init__(self, config: GptOssConfig) -> None:
        hidden, width = config.decoder.hidden_size, config.decoder.intermediate_size
        super().__init__(hidden, width, config.experts)
        self.gate_proj_bias = mx.zeros((config.experts, width))
        self.up_proj_bias = mx.zeros((config.experts, width))
        self.down_proj_bias = mx.zeros((config.experts, hidden))
        self.alpha, self.limit = config.alpha, config.limit

    def through(self, rows: mx.array, experts: mx.array, *, in_order: bool) -> mx.array:
        gate = self.gate_proj(rows, experts, in_order=in_order)  # [P,1,F]
        up = self.up_proj(rows, experts, in_order=in_order)  # [P,1,F]
        gate = mx.minimum(gate + self.gate_proj_bias[experts][:, None], self.limit)
        up = mx.clip(up + self.up_proj_bias[experts][:, None], -self.limit, self.limit)
        turned = (up + 1) * (gate * mx.sigmoid(gate * self.alpha))  # [P,1,F]
        out = self.down_proj(turned, experts, in_order=in_order)  # [P,1,E]
        return out + self.down_proj_bias[experts][:, None]

    def shards(self) -> Shards:
        biases = {f"{name}_bias": cut for name, cut in BY_WIDTH.items()}
        return Shards({**BY_WIDTH, **biases})


class MLP(moe.Mixture):
    """The A experts with the largest scores, weighted by the softmax of just these."""

    def __init__(self, config: GptOssConfig) -> None:
        super().__init__()
        self.active = config.active
        self.router = nn.Linear(config.decoder.hidden_size, config.experts, bias=True)
        self.experts = Experts(config)

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])  # [T,E]
        scores = self.router(tokens)  # [T,N]
        chosen = mx.argpartition(scores, kth=-self.active, axis=-1)[:, -self.active :]  # [T,A]
        shares = mx.softmax(mx.take_along_axis(scores, chosen, axis=-1), axis=-1, precise=True)  # [T,A]
        out = self.experts(tokens, chosen) * shares[..., None]  # [T,A,E]
        return out.sum(axis=1).reshape(x.shape)


def block(config: GptOssConfig, layer: int, rope: Rope) -> Block:
    return Block(config.decoder, SinkAttention(config, layer, rope), MLP(config))


class Model(CausalLM):
    def __init__(self, fields: Fields) -> None:
        read = GptOssConfig.read(fields)
        rope = Rope(read.rope, read.decoder.head_dim)
        blocks = [block(read, layer, rope) for layer in range(read.decoder.num_hidden_layers)]
        super().__init__(read.decoder, blocks, read.windows)

    def make_memory(self) -> Memory:
        return Memory(attention=storages(self._windows, RotatingKVCache))

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Published files have gate and up in one tensor, in turn: column by column as floats, whose matrices are
        [N,in,out], row by row if quantized. mlx-lm's are apart, with the biases under another name.
        """
        ours: dict[str, mx.array] = {}
        for name, array in super().rename(weights).items():
            for part, its in _parts(name, array).items():
                if part in ours:
                    raise BadModelFiles(f"tensor {part} is there twice, in two spellings")
                ours[part] = its
        return ours


def _parts(name: str, array: mx.array) -> dict[str, mx.array]:
    """One checkpoint tensor under our names. Made contiguous, since a strided one would be copied at every step."""
    path, dot, last = name.rpartition(".experts.")
    if not dot:
        return {name: array}
    known: dict[str, Any] = {
        "gate_up_proj": lambda: _apart(array.swapaxes(-1, -2), "weight"),
        "gate_up_proj.weight": lambda: _apart(array, "weight"),
        "gate_up_proj.scales": lambda: _apart(array, "scales"),
        "gate_up_proj_bias": lambda: {"gate_proj_bias": array[..., ::2], "up_proj_bias": array[..., 1::2]},
        "down_proj": lambda: {"down_proj.weight": array.swapaxes(-1, -2)},
        "gate_proj.bias": lambda: {"gate_proj_bias": array},
        "up_proj.bias": lambda: {"up_proj_bias": array},
        "down_proj.bias": lambda: {"down_proj_bias": array},
    }
    if last not in known:
        return {name: array}
    if array.ndim != (2 if last.endswith("bias") else 3):
        raise BadModelFiles(f"{name}: {array.ndim} dimensions, which is not what experts have")
    return {f"{path}.experts.{part}": mx.contiguous(its) for part, its in known[last]().items()}


def _apart(rows: mx.array, kind: str) -> dict[str, mx.array]:
    """[N,2F,..], a row of gate and a row of up in turn."""
    return {f"gate_proj.{kind}": rows[..., ::2, :], f"up_proj.{kind}": rows[..., 1::2, :]}
