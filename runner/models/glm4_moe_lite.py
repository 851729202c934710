"""GLM-4.7-Flash, and what was published in its shape (Glm4MoeLiteForCausalLM, GLM4MoeLite).

Attention is latent (`layers/latent.py`). MLPs are mixtures of experts behind some dense ones, with a sigmoid for a
router and an MLP that every token uses (DeepSeek-V3, arXiv 2412.19437).

Letters are those of `models/base.py`, `layers/latent.py` and `layers/moe.py`.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import mlx.core as mx

from runner.cache.latent import LatentCache
from runner.cache.memory import Memory
from runner.config.decoder import DecoderConfig
from runner.config.fields import MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, Fields, shown
from runner.config.latent import LatentConfig
from runner.errors import BadModelFiles, UnsupportedModel
from runner.layers import nn
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.latent import Attention, split_latent_maps
from runner.layers.mlp import GatedMLP
from runner.layers.moe import Experts, Mixture, join_experts
from runner.layers.rope import Rope

DEFAULT_EPS = 1e-5
DENSE, SPARSE = "dense", "sparse"


@dataclass(frozen=True)
class ExpertsConfig:
    experts: int  # N
    active: int  # A
    width: int  # F of an expert
    shared: int  # F of the MLP that every token uses, 0 for none
    normalized: bool
    factor: float
    groups: int
    active_groups: int

    @classmethod
    def read(cls, fields: Fields) -> ExpertsConfig:
        _refuse_other(fields, "topk_method", "noaux_tc")
        _refuse_other(fields, "scoring_func", "sigmoid")
        # transformers reads both names.
        number = fields.integer("num_local_experts", 64, high=MAX_EXPERTS)
        number = fields.integer("n_routed_experts", number, high=MAX_EXPERTS)
        width = fields.integer("moe_intermediate_size", 1536, high=MAX_WIDTH)
        some = "n_shared_experts" in fields  # null is a value
        shared = fields.optional_integer("n_shared_experts", low=0, high=MAX_EXPERTS) if some else 1
        read = cls(
            experts=number,
            active=fields.integer("num_experts_per_tok", 4, high=MAX_EXPERTS),
            width=width,
            shared=(shared or 0) * width,
            normalized=fields.flag("norm_topk_prob", True),
            factor=fields.number("routed_scaling_factor", 1.8),
            groups=fields.integer("n_group", 1, high=MAX_EXPERTS),
            active_groups=fields.integer("topk_group", 1, high=MAX_EXPERTS),
        )
        read.check()
        return read

    def check(self) -> None:
        if self.experts % self.groups or (self.groups > 1 and self.experts < 2 * self.groups):
            raise BadModelFiles(
                f"config.json: n_group is {self.groups}, but {self.experts} experts do not make groups of 2 or more"
            )
        if self.active_groups > self.groups:
            raise BadModelFiles(
                f"config.json: topk_group is {self.active_groups}, but there are {self.groups} groups"
            )
        there = self.experts // self.groups * self.active_groups
        if self.active > there:
            raise BadModelFiles(
                f"config.json: num_experts_per_tok is {self.active}, but there are {there} experts to choose from"
            )


def _refuse_other(fields: Fields, name: str, ours: str) -> None:
    value = fields.text(name, ours)
    if value != ours:
        raise UnsupportedModel(f"config.json: {name} {shown(value)} is not supported, only {ours} is")


@dataclass(frozen=True)
class Glm4MoeLiteConfig:
    decoder: DecoderConfig
    attention: LatentConfig
    experts: ExpertsConfig
    sparse: tuple[bool, ...]  # for each layer whether its MLP is a mixture
    drafting: int  # layers behind the last, which only guess at further tokens

    @classmethod
    def read(cls, fields: Fields) -> Glm4MoeLiteConfig:
        given = fields.values.get("rms_norm_eps")
        eps = DEFAULT_EPS if given is None else given
        # Keys and values are those of the latent, whatever num_key_value_heads says.
        fields = fields.with_values({**fields.values, "rms_norm_eps": eps, "num_key_value_heads": None})
        decoder = DecoderConfig.read(
            fields, positions=202_752, head_dim=64
        )  # its width of a head is not used
        return cls(
            decoder=decoder,
            attention=LatentConfig.read(fields, decoder.max_position_embeddings),
            experts=ExpertsConfig.read(fields),
            sparse=read_sparse(fields, decoder.num_hidden_layers),
            drafting=fields.integer("num_nextn_predict_layers", 1, low=0, high=MAX_LAYERS),
        )


def read_sparse(fields: Fields, layers: int) -> tuple[bool, ...]:
    """`mlp_layer_types`, or the older fields that say it by a rule."""
    kinds = fields.optional_texts("mlp_layer_types")
    if kinds is None:
        first = fields.integer("first_k_dense_replace", 1, low=0, high=MAX_LAYERS)
        step = fields.integer("moe_layer_freq", 1, high=MAX_LAYERS)
        return tuple(layer >= first and layer % step == 0 for layer in range(layers))
    if len(kinds) != layers:
        raise fields.wrong("mlp_layer_types", f"a list of num_hidden_layers, {layers}, names")
    for kind in kinds:
        if kind not in (DENSE, SPARSE):
            raise UnsupportedModel(
                f"config.json: mlp_layer_types has {shown(kind)}, supported are {DENSE} and {SPARSE}"
            )
    return tuple(kind == SPARSE for kind in kinds)


class Router(nn.Module):
    """Picks by score and a learned correction, which keeps experts equally busy; weighs by the score alone. All of
    it is done in float32: half precision makes ties, and a tie picks another expert.
    """

    def __init__(self, hidden: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = mx.zeros((config.experts, hidden))
        self.e_score_correction_bias = mx.zeros(config.experts)

    def __call__(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """[T,E] -> the experts of each token and their weights, [T,A] each, in float32."""
        config = self.config
        scores = mx.sigmoid(tokens.astype(mx.float32) @ self.weight.T)  # [T,N]
        ranks = self.without_weak_groups(scores + self.e_score_correction_bias)
        chosen = mx.argpartition(ranks, kth=-config.active, axis=-1)[:, -config.active :]  # [T,A]
        shares = mx.take_along_axis(scores, chosen, axis=-1)
        if config.normalized:
            shares = shares / (shares.sum(axis=-1, keepdims=True) + 1e-20)
        return chosen, shares * config.factor

    def without_weak_groups(self, ranks: mx.array) -> mx.array:
        """[T,N], with -inf in all groups but the strongest; a group is as strong as its two best experts."""
        groups, weak = self.config.groups, self.config.groups - self.config.active_groups
        if not weak:
            return ranks
        grouped = ranks.reshape(len(ranks), groups, -1)  # [T,G,N/G]
        strength = mx.topk(grouped, 2, axis=-1).sum(axis=-1)  # [T,G]
        out = mx.argpartition(strength, kth=weak - 1, axis=-1)[:, :weak, None]
        return mx.put_along_axis(grouped, out, mx.array(-math.inf), axis=1).reshape(ranks.shape)


class MLP(Mixture):
    """The mixture, and beside it the MLP that every token uses."""

    def __init__(self, decoder: DecoderConfig, config: ExpertsConfig) -> None:
        super().__init__()
        self.gate = Router(decoder.hidden_size, config)
        self.experts = Experts(decoder.hidden_size, config.width, config.experts)
        self.has_shared = config.shared > 0
        if self.has_shared:
            self.shared_experts = GatedMLP(replace(decoder, intermediate_size=config.shared))

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])  # [T,E]
        chosen, shares = self.gate(tokens)
        out = self.experts(tokens, chosen) * shares[..., None]  # [T,A,E]
        mixed = out.sum(axis=1).astype(x.dtype).reshape(x.shape)
        return mixed + self.shared_experts(x) if self.has_shared else mixed


def block(config: Glm4MoeLiteConfig, layer: int, rope: Rope) -> Block:
    decoder = config.decoder
    mlp = MLP(decoder, config.experts) if config.sparse[layer] else GatedMLP(decoder)
    return Block(decoder, Attention(decoder, layer, config.attention, rope), mlp)


class Model(CausalLM):
    def __init__(self, fields: Fields) -> None:
        read = Glm4MoeLiteConfig.read(fields)
        rope = Rope(read.attention.rope, read.attention.rotated)
        layers = range(read.decoder.num_hidden_layers)
        super().__init__(read.decoder, [block(read, layer, rope) for layer in layers], [None] * len(layers))
        self._config = read

    def make_memory(self) -> Memory:
        layers = range(self._config.decoder.num_hidden_layers)
        return Memory(latent={layer: LatentCache() for layer in layers})

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Dropped: the layers that only guess at further tokens."""
        config = self._config
        last = config.decoder.num_hidden_layers
        dropped = tuple(f"model.layers.{layer}." for layer in range(last, last + config.drafting))
        kept = {
            name: array for name, array in super().rename(weights).items() if not name.startswith(dropped)
        }
        return join_experts(
            split_latent_maps(kept, config.decoder.num_attention_heads, config.attention),
            config.experts.experts,
        )
