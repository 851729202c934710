"""Every architecture in two and in three parts: together they say what the whole says, in float32."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from runner.sharding.group import Group
from tests.parts.architectures import CASES
from tests.parts.case import Case, some_tokens
from tests.parts.models import logits, made
from tests.parts.ranks import divided, together
from tests.parts.references import reference

TOLERANCE = 1e-4
TOKENS = some_tokens(40)
SIZES = (17, 1, 5)


def heads(name: str) -> list[int]:
    """All that are divided evenly; of those that a case does not name there are 8 or 16."""
    text = CASES[name].text
    return [text.get("num_attention_heads", 8), text.get("linear_num_value_heads", 0)]


FIRST = {case.architecture: name for name, case in reversed(CASES.items())}
PAIRS = [
    (name, size)
    for name, case in CASES.items()
    for size in (2, 3)
    if not any(count % size for count in heads(name)) and (size == 2 or name == FIRST[case.architecture])
]


@pytest.mark.parametrize(("name", "size"), PAIRS)
def test_the_parts_of_a_model_have_the_logits_of_the_whole(name: str, size: int) -> None:
    equal(CASES[name], size)


@pytest.mark.parametrize("name", ["Qwen3_5 plain", "Qwen3Next plain"])
@pytest.mark.parametrize(("keys", "values", "size"), [(1, 4, 4), (2, 6, 3), (2, 4, 4), (3, 6, 2), (4, 12, 3)])
def test_heads_of_keys_of_linear_attention_that_are_not_divided_are_repeated(
    name: str, keys: int, values: int, size: int
) -> None:
    counts = {"linear_num_key_heads": keys, "linear_num_value_heads": values, "num_attention_heads": 12}
    case = CASES[name]
    equal(replace(case, fields={**case.fields, **counts}), size)


def equal(case: Case, size: int) -> None:
    checkpoint = reference(case).checkpoint()
    mx.eval(list(checkpoint.values()))
    whole = np.array(logits(made(case, checkpoint), TOKENS, SIZES))

    def part(group: Group) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.array(logits(divided(case, checkpoint, group), TOKENS, SIZES))

    for found in together(size, part):
        assert np.abs(found - whole).max() < TOLERANCE
