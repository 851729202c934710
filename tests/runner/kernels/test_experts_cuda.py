"""A mixture of experts is that of the plain form, and no token's depends on how many there are. Runs where there is
a CUDA device.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import pytest

from runner.kernels.product import MOST
from runner.machine import device
from tests.parts.banks import banks, check

pytestmark = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")

# Experts, inputs, outputs, and how many of them a token uses.
SHAPES = {"Qwen3": (128, 2048, 768, 8), "Qwen3-Next": (512, 2048, 512, 10), "narrow": (37, 192, 64, 3)}
KINDS: Mapping[str, tuple[int, int]] = {
    "floats": (0, 0),
    "4 bits by 64": (4, 64),
    "4 bits by 32": (4, 32),
    "8 bits by 64": (8, 64),
}


@pytest.mark.parametrize("has_shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_find_what_the_plain_form_finds(shape: str, kind: str, has_shared: bool) -> None:
    mx.random.seed(len(shape + kind))
    ours, plain = banks(*SHAPES[shape], *KINDS[kind], normalized=not has_shared)
    if not has_shared:
        ours, plain = ours._replace(shared=None), plain._replace(shared=None)
    for tokens in (1, 3, 8, MOST):
        # The largest of a token are no two equal: small multiples of 1/64.
        ranks = mx.argsort(mx.random.uniform(shape=(tokens, 1, ours.experts + has_shared)), axis=-1)
        check(ours, plain, (ranks / -64.0).astype(mx.bfloat16))
