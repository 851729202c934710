"""Qwen3's mixtures of experts, and what was published in their shape (Qwen3MoeForCausalLM).

A Qwen3 whose MLPs are mixtures of experts, in all layers or in those that the config picks.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_sliding_window, read_windows
from runner.config.fields import MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, Fields
from runner.config.rope import RopeConfig
from runner.errors import BadModelFiles
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.mlp import GatedMLP
from runner.layers.moe import SparseMLP, join_experts
from runner.layers.rope import Rope
from runner.models.qwen3 import NormedAttention, Qwen3Config, ignore_norms


@dataclass(frozen=True)
class Qwen3MoeConfig:
    dense: Qwen3Config
    experts: int  # N
    active: int  # A
    expert_width: int  # F of an expert
    normalized: bool
    sparse: tuple[bool, ...]  # for each layer whether its MLP is a mixture

    @classmethod
    def read(cls, fields: Fields) -> Qwen3MoeConfig:
        ignore_norms(fields)
        decoder = DecoderConfig.read(fields, positions=32_768, kv_heads=4)
        experts = read_experts(fields)
        active = fields.integer("num_experts_per_tok", 8, high=MAX_EXPERTS)
        sparse = read_sparse(fields, decoder.num_hidden_layers, experts)
        if any(sparse) and active > experts:
            raise BadModelFiles(
                f"config.json: num_experts_per_tok is {active}, but there are {experts} experts"
            )
        return cls(
            dense=Qwen3Config(
                decoder=decoder,
                rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
                attention_bias=fields.flag("attention_bias", False),
                windows=read_same_windows(fields, decoder),
            ),
            experts=experts,
            active=active,
            expert_width=fields.integer("moe_intermediate_size", 768, high=MAX_WIDTH),
            normalized=fields.flag("norm_topk_prob", False),
            sparse=sparse,
        )


def read_experts(fields: Fields) -> int:
    """transformers reads both names and, since version 5, writes the second."""
    other = fields.integer("num_local_experts", 128, low=0, high=MAX_EXPERTS)
    return fields.integer("num_experts", other, low=0, high=MAX_EXPERTS)


def read_sparse(fields: Fields, layers: int, experts: int) -> tuple[bool, ...]:
    """Every `decoder_sparse_step`-th layer has experts, unless `mlp_only_layers` lists it or there are none."""
    step = fields.integer("decoder_sparse_step", 1, high=MAX_LAYERS)
    dense = fields.integers("mlp_only_layers", high=MAX_LAYERS)
    return tuple(experts > 0 and (layer + 1) % step == 0 and layer not in dense for layer in range(layers))


def read_same_windows(fields: Fields, decoder: DecoderConfig) -> tuple[int | None, ...]:
    """With `use_sliding_window` all layers see a window; `max_window_layers`, the rule of the dense models, does
    not count here.
    """
    window = read_sliding_window(fields) if fields.flag("use_sliding_window", False) else None
    kind = FULL if window is None else SLIDING
    return read_windows(fields, decoder, window, default=[kind] * decoder.num_hidden_layers)


def mlp(config: Qwen3MoeConfig, layer: int) -> GatedMLP | SparseMLP:
    if not config.sparse[layer]:
        return GatedMLP(config.dense.decoder)
    return SparseMLP(
        config.dense.decoder.hidden_size,
        config.expert_width,
        experts=config.experts,
        active=config.active,
        normalized=config.normalized,
    )


def block(config: Qwen3MoeConfig, layer: int, rope: Rope) -> Block:
    return Block(config.dense.decoder, NormedAttention(config.dense, layer, rope), mlp(config, layer))


class Model(CausalLM):
    """Checkpoint keys are attribute paths once the experts are joined."""

    def __init__(self, fields: Fields) -> None:
        read = Qwen3MoeConfig.read(fields)
        decoder = read.dense.decoder
        rope = Rope(read.dense.rope, decoder.head_dim)
        blocks = [block(read, layer, rope) for layer in range(decoder.num_hidden_layers)]
        super().__init__(decoder, blocks, read.dense.windows)
        self._experts = read.experts

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return join_experts(super().rename(weights), self._experts)
