"""Gemma 4's config.json, read: what kind each layer is, the shape of its attention, whose keys it looks at.

Defaults are those of transformers, which knows two families: the unified one has other limits and no per-layer
embeddings.

Knows nothing about arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.config.decoder import FULL, SLIDING, DecoderConfig, read_windows
from runner.config.fields import (
    MAX_EXPERTS,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Config,
    Fields,
    shown,
)
from runner.config.rope import RopeConfig
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models import gemma3
from runner.models.gemma3 import capped, check_gelu

DEFAULTS: Config = {"vocab_size": 262_144, "num_attention_heads": 8}
DEFAULT_THETA = 10_000.0  # where an object of `rope_parameters` leaves it out
DEFAULT_ROPES: dict[str, Config] = {
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
}


@dataclass(frozen=True)
class Family:
    """Defaults in which the two configuration classes differ."""

    positions: int
    window: int
    ple_width: int


PLAIN = Family(positions=131_072, window=512, ple_width=256)
UNIFIED = Family(positions=262_144, window=1024, ple_width=0)


@dataclass(frozen=True)
class Kind:
    """What layers of one kind have in common."""

    kv_heads: int  # K
    head_dim: int  # D
    rope: RopeConfig
    k_eq_v: bool


@dataclass(frozen=True)
class Mixture:
    experts: int  # N
    active: int  # A
    width: int  # F of an expert


@dataclass(frozen=True)
class Gemma4Config:
    decoder: DecoderConfig
    kinds: dict[str, Kind]
    layers: tuple[str, ...]  # the kind of each
    windows: tuple[int | None, ...]
    donors: tuple[int, ...]  # for each layer the one whose keys and values it looks at, itself or one before
    wide: bool  # layers that share have an MLP of twice the width
    ple_rows: int
    ple_width: int  # P; 0 for none
    mixture: Mixture | None
    attention_bias: bool
    logit_cap: float | None

    @classmethod
    def read(cls, fields: Fields) -> Gemma4Config:
        family = UNIFIED if "unified" in fields.values["architectures"][0].lower() else PLAIN
        fields = fields.section("text_config") or fields
        fields = fields.with_values(_text_values(fields.values))
        refuse_unsupported(fields)
        decoder = DecoderConfig.read(fields, positions=family.positions, kv_heads=4, head_dim=256)
        kinds = read_kinds(fields, decoder.num_hidden_layers)
        window = fields.integer("sliding_window", family.window, high=MAX_POSITIONS)
        rows, width = read_ple(fields, decoder, family)
        return cls(
            # A head that is there counts, whatever the flag says: `rename` settles it.
            decoder=replace(decoder, tie_word_embeddings=False),
            kinds=read_shapes(fields, decoder, kinds),
            layers=kinds,
            windows=read_windows(
                fields.with_values(fields.values | {"layer_types": [*kinds]}), decoder, window, default=kinds
            ),
            donors=read_donors(fields, kinds),
            wide=fields.flag("use_double_wide_mlp", False),
            ple_rows=rows,
            ple_width=width,
            mixture=read_mixture(fields),
            attention_bias=fields.flag("attention_bias", False),
            logit_cap=fields.number("final_logit_softcapping") if capped(fields) else None,
        )

    @property
    def owners(self) -> int:
        """How many layers have keys and values of their own; they come first."""
        return sum(donor == layer for layer, donor in enumerate(self.donors))


def _text_values(values: Config) -> Config:
    """With defaults, and without `hidden_act`: the activation's name is `hidden_activation` here."""
    absent = {name: value for name, value in DEFAULTS.items() if values.get(name) is None}
    return values | absent | {"hidden_act": None}


def refuse_unsupported(fields: Fields) -> None:
    check_gelu(fields)
    # "vision" means images see themselves whole, which is nothing to text.
    seen = fields.text("use_bidirectional_attention", "vision")
    if seen != "vision":
        raise UnsupportedModel(
            f"config.json: use_bidirectional_attention {shown(seen)} is not supported: it is no generator's"
        )
    if fields.mapping("rope_scaling"):
        raise UnsupportedModel("config.json: rope_scaling is not supported here, only rope_parameters is")


def read_kinds(fields: Fields, count: int) -> tuple[str, ...]:
    """As in Gemma 3, but the last layer sees everything, whatever it says: so transformers has it."""
    return (*gemma3.read_kinds(fields, count)[:-1], FULL)


def read_shapes(fields: Fields, decoder: DecoderConfig, kinds: Sequence[str]) -> dict[str, Kind]:
    """Published files name the wider heads by fields of their own; what transformers 5.23 saves lists them layer by
    layer in `per_layer_config` instead, and then only that counts.
    """
    k_eq_v = fields.flag("attention_k_eq_v", False)
    heads, width = decoder.num_key_value_heads, decoder.head_dim
    if "per_layer_config" in fields:
        other = _overrides(fields, kinds)
        full_width = other.integer("head_dim", width, high=MAX_WIDTH)
        full_heads = other.integer("num_key_value_heads", heads, high=MAX_HEADS)
    else:
        full_width = fields.integer("global_head_dim", 512, high=MAX_WIDTH)
        named = fields.optional_integer("num_global_key_value_heads", high=MAX_HEADS)
        full_heads = named if named and k_eq_v else heads
    if decoder.num_attention_heads % full_heads:
        raise BadModelFiles(
            f"config.json: num_attention_heads is {decoder.num_attention_heads}, expected a multiple of the"
            f" key/value heads of {FULL} layers, {full_heads}"
        )
    return {
        FULL: Kind(full_heads, full_width, read_rope(fields, FULL, full_width, decoder), k_eq_v),
        SLIDING: Kind(heads, width, read_rope(fields, SLIDING, width, decoder), False),
    }


def _overrides(fields: Fields, kinds: Sequence[str]) -> Fields:
    """What `per_layer_config` says of every layer that sees everything, and of these only."""
    listed = fields.mapping("per_layer_config") or {}
    given = {layer.lstrip("0") or "0": values for layer, values in listed.items()}
    full = [str(layer) for layer, kind in enumerate(kinds) if kind == FULL]
    one = given.get(full[0], {})
    known = isinstance(one, dict) and one.keys() <= {"head_dim", "num_key_value_heads"}
    if not known or given != {layer: one for layer in full if one}:
        raise UnsupportedModel(
            "config.json: per_layer_config is supported for head_dim and num_key_value_heads only, the same in"
            f" every {FULL} layer"
        )
    return Fields(one, "config.json: per_layer_config")


def read_rope(fields: Fields, kind: str, head_dim: int, decoder: DecoderConfig) -> RopeConfig:
    """`rope_parameters` has one object for each kind; what that leaves out may stand beside it."""
    given = fields.mapping("rope_parameters") or DEFAULT_ROPES
    for name in given:
        if name not in DEFAULT_ROPES:
            raise UnsupportedModel(
                f"config.json: rope_parameters has {shown(name)}, expected {FULL} and {SLIDING} only"
            )
    own = Fields(given, "config.json: rope_parameters").mapping(kind) or DEFAULT_ROPES[kind]
    beside = {
        "rope_theta": fields.number("rope_theta", DEFAULT_THETA, above=1),
        "partial_rotary_factor": fields.number("partial_rotary_factor", 1.0),
    }
    values = beside | {name: value for name, value in own.items() if value is not None}
    if values.get("rope_type", values.get("type", "default")) == "default":
        values["partial_rotary_factor"] = 1.0  # transformers rotates whole heads, whatever it says
    whole = {"rope_parameters": values, "rope_traditional": fields.flag("rope_traditional", False)}
    return RopeConfig.read(Fields(whole), head_dim, decoder.max_position_embeddings)


def read_donors(fields: Fields, kinds: Sequence[str]) -> tuple[int, ...]:
    shared = fields.integer("num_kv_shared_layers", 0, low=0, high=MAX_LAYERS)
    owners = max(0, len(kinds) - shared)
    last = {kind: layer for layer, kind in enumerate(kinds[:owners])}
    for kind in kinds[owners:]:
        if kind not in last:
            raise BadModelFiles(
                f"config.json: num_kv_shared_layers is {shared} of {len(kinds)} layers, but none of the others is"
                f" of the kind {kind}"
            )
    return tuple(layer if layer < owners else last[kind] for layer, kind in enumerate(kinds))


def read_ple(fields: Fields, decoder: DecoderConfig, family: Family) -> tuple[int, int]:
    """Rows and width (0 for none) of the per-layer embeddings."""
    given = "hidden_size_per_layer_input" in fields
    width = fields.integer(
        "hidden_size_per_layer_input", 0 if given else family.ple_width, low=0, high=MAX_WIDTH
    )
    rows = fields.integer("vocab_size_per_layer_input", 262_144, high=MAX_VOCABULARY)
    if width and rows < decoder.vocab_size:
        raise BadModelFiles(
            f"config.json: vocab_size_per_layer_input is {rows}, but there are {decoder.vocab_size} tokens"
        )
    return rows, width


def read_mixture(fields: Fields) -> Mixture | None:
    if not fields.flag("enable_moe_block", False):
        fields.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
        return None
    experts = fields.integer("num_experts", high=MAX_EXPERTS)
    active = fields.integer("top_k_experts", high=MAX_EXPERTS)
    if active > experts:
        raise BadModelFiles(f"config.json: top_k_experts is {active}, but there are {experts} experts")
    return Mixture(experts, active, fields.integer("moe_intermediate_size", high=MAX_WIDTH))
