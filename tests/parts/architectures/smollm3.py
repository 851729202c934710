"""SmolLM3."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.layers import FULL, SLIDING, WINDOWED
from tests.parts.architectures.relatives import common_cases
from tests.parts.case import Case

NAME = "SmolLM3ForCausalLM"
PLAIN: Config = {"no_rope_layer_interval": 2}  # so the second layer has no positions
ROWS: dict[str, Config] = {
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "every head its own": {"num_key_value_heads": None},
    "no_rope_layers": {"no_rope_layers": [0, 1]},
    "no_rope_layers beside an interval of 0": {"no_rope_layers": [0, 1], "no_rope_layer_interval": 0},
    "no_rope_layers for more layers": {"no_rope_layers": [0, 1, 0]},
    "no positions": {"no_rope_layer_interval": 1},
    "window unused": {"sliding_window": 9},
    "window never left": {**WINDOWED, "sliding_window": 256},
    "window": WINDOWED,
    "window by no_rope_layers": {**WINDOWED, "no_rope_layers": [0, 1]},
    "window by layer_types": {**WINDOWED, "layer_types": [SLIDING, FULL]},
    "window of no layer": {**WINDOWED, "layer_types": [FULL, FULL]},
}
WINDOWS = {
    "window": (None, 9),
    "window by no_rope_layers": (9, None),
    "window by layer_types": (9, None),
}
LINEAR: Config = {**PLAIN, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}
CASES = [
    *common_cases("SmolLM3", PLAIN),
    *(
        Case(f"SmolLM3 {name}", NAME, {**PLAIN, **row}, windows=WINDOWS.get(name, (None, None)))
        for name, row in ROWS.items()
    ),
    Case("SmolLM3 default interval", NAME, {"num_hidden_layers": 5}, windows=(None,) * 5),
    Case("SmolLM3 default theta", NAME, PLAIN, ("rope_theta",)),
    Case("SmolLM3 default theta, linear rope", NAME, LINEAR, ("rope_theta",)),
]
