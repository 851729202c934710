"""Gemma 3."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.gemmas import COMMON, WINDOWS
from tests.parts.architectures.layers import FULL, MIXED, SLIDING
from tests.parts.architectures.ropes import OLDER
from tests.parts.case import Case

TEXT, MULTIMODAL = "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"
FIELDS: Config = {
    "sliding_window": 9,
    "sliding_window_pattern": 2,  # so the first layer sees a window, the second everything
    "query_pre_attn_scalar": 24,  # not head_dim
    "rope_theta": 50_000.0,
    "rope_local_base_freq": 1_000.0,
    "hidden_size": 60,  # its root is no short number
    "tie_word_embeddings": True,
}
ROWS: dict[str, Config] = {
    **COMMON,
    "linear rope": {"rope_scaling": OLDER["linear"]["rope_scaling"]},
    "llama3 rope": {"rope_scaling": OLDER["llama3"]["rope_scaling"]},
    "yarn rope": {"rope_scaling": OLDER["yarn"]["rope_scaling"]},
    "layer_types": {"layer_types": [SLIDING, FULL], "sliding_window_pattern": None},
}
OTHER_ORDER: Config = {
    **FIELDS,
    **MIXED,
    "rope_parameters": {
        FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 70_000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 2_000.0},
    },
}
HEADS = ("num_attention_heads", "num_key_value_heads")
THETAS = ("rope_theta", "rope_local_base_freq")
CASES = [
    *(
        Case(f"Gemma3 {name}", TEXT, {**FIELDS, **row}, windows=WINDOWS.get(name, (9, None)))
        for name, row in ROWS.items()
    ),
    Case("Gemma3 window never left", TEXT, {**FIELDS, "sliding_window": 256}),
    Case("Gemma3 default thetas", TEXT, FIELDS, THETAS, windows=(9, None)),
    Case("Gemma3 default pattern", TEXT, FIELDS, ("sliding_window_pattern",), windows=(9, 9)),
    Case("Gemma3 rope_parameters", TEXT, OTHER_ORDER, THETAS, windows=(None, 9)),
    Case("Gemma3 text_config", MULTIMODAL, FIELDS, HEADS, windows=(9, None)),
]
