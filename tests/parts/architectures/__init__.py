"""Tiny models of every architecture that we run: one file for each family, one line for each case.

Whatever is in CASES goes through the contract of all architectures.
"""

from __future__ import annotations

from tests.parts.architectures import (
    gemma3,
    gemma4,
    glm4_moe_lite,
    gpt_oss,
    hybrids,
    llama,
    mistral,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from tests.parts.case import Case

FAMILIES = (
    *(llama, mistral, qwen2, qwen3, qwen3_moe, smollm3),
    *(gemma3, gemma4, glm4_moe_lite, gpt_oss, hybrids),
)
CASES: dict[str, Case] = {case.name: case for family in FAMILIES for case in family.CASES}
