"""Mistral: a Llama with windows."""

from __future__ import annotations

from tests.parts.architectures.layers import MIXED
from tests.parts.architectures.relatives import common_cases
from tests.parts.case import Case

NAME = "MistralForCausalLM"
CASES = [
    *common_cases("Mistral"),
    Case("Mistral window", NAME, {"sliding_window": 9}, windows=(9, 9)),
    Case("Mistral window of 1", NAME, {"sliding_window": 1}, windows=(1, 1)),
    Case("Mistral window never left", NAME, {"sliding_window": 256}),
    Case("Mistral default window", NAME),
    Case("Mistral mixed window", NAME, {"sliding_window": 9, **MIXED}, windows=(None, 9)),
]
