"""Qwen3.5's mixtures of experts: text only (Qwen3_5MoeForCausalLM), and the text part of the multimodal ones
(Qwen3_5MoeForConditionalGeneration).

A Qwen3.5 all of whose MLPs are mixtures of experts. Fields that make exceptions in Qwen3-Next (`mlp_only_layers`,
`decoder_sparse_step`, `norm_topk_prob`) do not exist here: transformers ignores them, and so do we.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from runner.config.fields import Config, Fields
from runner.errors import BadModelFiles
from runner.models.qwen3_5 import LinearAttention
from runner.models.qwen3_next import HybridModel, sparse_mlp
from runner.models.qwen3_next_config import HybridConfig, MixtureConfig, text_fields

DEFAULTS: Config = {"intermediate_size": 1}  # required of others, but there is no dense MLP here


class Model(HybridModel):
    def __init__(self, fields: Fields) -> None:
        fields = text_fields(fields, DEFAULTS)
        read = HybridConfig.read(fields, kv_heads=2)
        mixture = MixtureConfig.read(fields, experts=256, active=8, normalized=True)
        if not mixture.experts:
            raise BadModelFiles("config.json: num_experts is 0, expected at least 1")
        super().__init__(
            read, LinearAttention, lambda layer: sparse_mlp(read.decoder, mixture), mixture.experts
        )
