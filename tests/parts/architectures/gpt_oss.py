"""gpt-oss."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.layers import MIXED
from tests.parts.architectures.ropes import NEWER
from tests.parts.case import Case

NAME = "GptOssForCausalLM"
FIELDS: Config = {
    "num_local_experts": 7,
    "num_experts_per_tok": 3,
    "sliding_window": 9,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0},
}
ROWS: dict[str, Config] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "yarn rope": {"rope_parameters": NEWER["yarn"]},
    "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
    "wider, so that clamps count": {"hidden_size": 128},
    "1 expert of 7": {"num_experts_per_tok": 1},
}
OTHER_ORDER: Config = {**FIELDS, **MIXED}
CASES = [
    *(
        Case(f"GptOss {name}", NAME, {**FIELDS, **row}, ("rope_theta",), windows=(9, None))
        for name, row in ROWS.items()
    ),
    Case("GptOss layer_types", NAME, OTHER_ORDER, ("rope_theta",), windows=(None, 9)),
]
