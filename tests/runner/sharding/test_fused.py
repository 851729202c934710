"""Rows that decode through fused blocks of a divided model have the logits of the whole; the plain forms stand for
the kernels here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.cache.company import Company
from runner.kernels.few_rows import PLAIN
from runner.kernels.rows_attention import PLAIN as PLAIN_ATTENTION
from runner.layers import nn
from runner.layers.fused import fuse
from runner.sharding.group import Group
from tests.parts.architectures import CASES
from tests.parts.case import some_tokens
from tests.parts.models import Conversation, decoded_together, logits, made
from tests.parts.ranks import divided, together
from tests.parts.references import reference

TOKENS = some_tokens(30)
LENGTHS = [5, 21]
# Both halves of dense blocks and of hybrids, the attention of mixtures.
NAMES = ["Llama default rope", "Qwen3 tied", "Qwen2 tied", "Qwen3_5 heads of 32", "Qwen3Moe tied"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_decode_in_parts_have_the_logits_of_the_whole(name: str) -> None:
    case = CASES[name]
    checkpoint = reference(case).checkpoint()
    whole = np.array(logits(made(case, checkpoint), TOKENS))

    def part(group: Group) -> list[np.ndarray[Any, Any]]:
        model = divided(case, checkpoint, group)
        assert isinstance(model, nn.Module)
        assert fuse(model, PLAIN) > 0
        rows = {number: Conversation(model) for number in range(len(LENGTHS))}
        for row, length in zip(rows.values(), LENGTHS, strict=True):
            row.feed(TOKENS[:length])
        company, found = Company(len(rows), PLAIN_ATTENTION), []
        for _ in range(3):
            tokens = [TOKENS[row.offset] for row in rows.values()]
            found.append(np.array(decoded_together(model, company, rows, tokens)))
        return found

    for found in together(2, part):
        for step, rows in enumerate(found):
            assert np.abs(rows - whole[[length + step for length in LENGTHS]]).max() < 1e-4
