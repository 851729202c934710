"""What config.json says of Qwen3-Next and Qwen3.5.

Knows nothing about arrays, files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.config.decoder import FULL, DecoderConfig
from runner.config.fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Config, Fields, shown
from runner.config.rope import RopeConfig
from runner.errors import BadModelFiles, UnsupportedModel
from runner.layers.gated_delta import LinearConfig

LINEAR = "linear_attention"
RECURRENT = 0  # the window of a layer that looks at no position
MAX_KERNEL = 1_024
FOR_IMAGES = ("mrope_section", "mrope_interleaved")  # of the rope fields; they shift no position of a text


@dataclass(frozen=True)
class HybridConfig:
    """What Qwen3-Next and Qwen3.5 have in common."""

    decoder: DecoderConfig
    rope: RopeConfig
    attention_bias: bool
    linear: LinearConfig
    windows: tuple[int | None, ...]  # RECURRENT or None of each layer

    @classmethod
    def read(cls, fields: Fields, *, kv_heads: int) -> HybridConfig:
        """`kv_heads`: the architecture's default."""
        refuse_unsupported(fields)
        decoder = DecoderConfig.read(fields, positions=32_768, kv_heads=kv_heads, head_dim=256)
        return cls(
            # A head that is there counts, whatever the flag says: `rename` settles it.
            decoder=replace(decoder, tie_word_embeddings=False),
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings, partial=True),
            attention_bias=fields.flag("attention_bias", False),
            linear=read_linear(fields),
            windows=read_kinds(fields, decoder.num_hidden_layers),
        )


@dataclass(frozen=True)
class MixtureConfig:
    """The mixture of experts in a layer that has one."""

    experts: int  # N
    active: int  # A
    expert_width: int  # F of an expert
    shared_width: int  # F of the one that every token uses
    normalized: bool

    @classmethod
    def read(cls, fields: Fields, *, experts: int, active: int, normalized: bool) -> MixtureConfig:
        """`experts` is the architecture's default of num_experts, `active` that of num_experts_per_tok."""
        read = cls(
            experts=fields.integer("num_experts", experts, low=0, high=MAX_EXPERTS),
            active=fields.integer("num_experts_per_tok", active, high=MAX_EXPERTS),
            expert_width=fields.integer("moe_intermediate_size", 512, high=MAX_WIDTH),
            shared_width=fields.integer("shared_expert_intermediate_size", 512, high=MAX_WIDTH),
            normalized=normalized,
        )
        if 0 < read.experts < read.active:
            raise BadModelFiles(
                f"config.json: num_experts_per_tok is {read.active}, but there are {read.experts} experts"
            )
        return read


def text_fields(fields: Fields, defaults: Config) -> Fields:
    """Those of `text_config`, if there is one, without what only images need."""
    fields = fields.section("text_config") or fields
    values = defaults | {name: value for name, value in fields.values.items() if value is not None}
    values.setdefault("partial_rotary_factor", 0.25)
    for name in ("rope_scaling", "rope_parameters"):
        if rope := fields.with_values(values).mapping(name):
            values[name] = {key: value for key, value in rope.items() if key not in FOR_IMAGES}
    return fields.with_values(values)


def refuse_unsupported(fields: Fields) -> None:
    if not fields.flag("attn_output_gate", True):
        raise UnsupportedModel("config.json: attn_output_gate false is not supported, only true is")
    gate = fields.text("output_gate_type", "swish")
    if gate not in ("silu", "swish"):
        raise UnsupportedModel(f"config.json: output_gate_type {shown(gate)} is not supported, only swish is")


def read_linear(fields: Fields) -> LinearConfig:
    linear = LinearConfig(
        key_heads=fields.integer("linear_num_key_heads", 16, high=MAX_HEADS),
        value_heads=fields.integer("linear_num_value_heads", 32, high=MAX_HEADS),
        key_width=fields.integer("linear_key_head_dim", 128, high=MAX_WIDTH),
        value_width=fields.integer("linear_value_head_dim", 128, high=MAX_WIDTH),
        kernel=fields.integer("linear_conv_kernel_dim", 4, low=2, high=MAX_KERNEL),
    )
    if linear.value_heads % linear.key_heads:
        raise BadModelFiles(
            f"config.json: linear_num_value_heads is {linear.value_heads}, expected a multiple of"
            f" linear_num_key_heads, {linear.key_heads}"
        )
    return linear


def read_kinds(fields: Fields, count: int) -> tuple[int | None, ...]:
    """`layer_types`, or every `full_attention_interval`-th layer has full attention."""
    interval = fields.integer("full_attention_interval", 4, high=MAX_LAYERS)
    default = [LINEAR if (layer + 1) % interval else FULL for layer in range(count)]
    given = fields.optional_texts("layer_types")
    kinds = default if given is None else given
    if len(kinds) != count:
        raise fields.wrong("layer_types", f"a list of num_hidden_layers, {count}, names")
    for kind in kinds:
        if kind not in (FULL, LINEAR):
            raise UnsupportedModel(
                f"config.json: layer_types has {shown(kind)}, supported are {FULL} and {LINEAR}"
            )
    if LINEAR not in kinds:
        raise UnsupportedModel(f"config.json: no layer has {LINEAR}, which is not supported")
    return tuple(RECURRENT if kind == LINEAR else None for kind in kinds)
