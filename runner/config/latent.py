"""What config.json says of latent attention. Letters in `layers/latent.py`.

Knows nothing about arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from runner.config.fields import MAX_WIDTH, Fields
from runner.config.rope import RopeConfig, read_scaling


@dataclass(frozen=True)
class LatentConfig:
    rope: RopeConfig
    scale: float  # of the scores
    bias: bool
    query_rank: int | None  # of the product that queries are made by; None: of one matrix
    latent: int  # Z
    content: int  # C
    rotated: int  # R
    value: int  # W

    @classmethod
    def read(cls, fields: Fields, positions: int) -> LatentConfig:
        fields.ignore("qk_head_dim")  # it is the sum of two others
        # transformers reads both names.
        width = fields.integer("head_dim", 64, high=MAX_WIDTH)
        rotated = fields.integer("qk_rope_head_dim", width, high=MAX_WIDTH)
        content = fields.integer("qk_nope_head_dim", 192, high=MAX_WIDTH)
        ranked = "q_lora_rank" in fields  # null is a value
        return cls(
            rope=read_rope(fields, rotated, positions),
            scale=read_scale(fields, content + rotated),
            bias=fields.flag("attention_bias", False),
            query_rank=fields.optional_integer("q_lora_rank", high=MAX_WIDTH) if ranked else 768,
            latent=fields.integer("kv_lora_rank", 512, high=MAX_WIDTH),
            content=content,
            rotated=rotated,
            value=fields.integer("v_head_dim", 256, high=MAX_WIDTH),
        )


def read_rope(fields: Fields, rotated: int, positions: int) -> RopeConfig:
    rope = RopeConfig.read(fields, rotated, positions)
    return replace(rope, traditional=fields.flag("rope_interleave", True))


def read_scale(fields: Fields, width: int) -> float:
    """1/sqrt(width of a key); stretched positions sharpen it if `mscale_all_dim` says so."""
    kind, scaling = read_scaling(fields)
    growth = scaling.optional_number("mscale_all_dim")
    if kind == "default" or not growth:
        return 1 / math.sqrt(width)
    sharper = 0.1 * growth * math.log(max(scaling.number("factor"), 1.0)) + 1
    return sharper**2 / math.sqrt(width)
