"""Linear attention by kernels is that of the plain forms, and no row's depends on how many there are. Runs where
there is a CUDA device.
"""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels import delta_chunks_cuda
from runner.kernels.delta import LinearConfig, Rule, State, plain, sequential
from runner.kernels.delta_cuda import CUDA
from runner.machine import device

pytestmark = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")

LAYERS = {
    "usual": LinearConfig(16, 32, 128, 128, 4),
    "few": LinearConfig(4, 8, 64, 64, 4),
    "odd": LinearConfig(3, 9, 40, 36, 5),
    "wide": LinearConfig(2, 2, 128, 256, 2),
}


@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_steps_find_what_the_plain_form_finds_in_float32(name: str, is_grouped: bool) -> None:
    config = LAYERS[name]
    mx.random.seed(len(name))
    rule = made_rule(config, is_grouped)
    assert CUDA.fits(rule)
    step, exact = CUDA.make(rule), plain(rule._replace(convolution=rule.convolution.astype(mx.float32)))
    width = config.channels + config.value_heads * (config.value_width + 2)
    given = [mx.random.normal((32, 1, width)).astype(mx.bfloat16) for _ in range(3)]
    first: list[mx.array] = []
    for rows in (1, 3, 32):
        state, expected_state = None, None
        for joined in given:
            found, state = step(joined[:rows], state)
            expected, expected_state = exact(joined[:rows].astype(mx.float32), expected_state)
            assert mx.allclose(found.astype(mx.float32), expected, rtol=2e-2, atol=2e-2)
        assert close(state, expected_state)
        ends = [part[:1] for part in (found, *(state or ()))]
        first = first or ends
        assert all(map(mx.array_equal, ends, first))


@pytest.mark.parametrize("length", [5, 64, 1000])
@pytest.mark.parametrize("widths", [(128, 128), (64, 64), (20, 48)])
def test_chunks_give_what_positions_give(widths: tuple[int, int], length: int) -> None:
    mx.random.seed(widths[0])
    key_width, value_width, lead = *widths, (2, 4)
    keys = mx.random.normal((*lead, length, key_width))
    keys = keys / mx.sqrt((keys * keys).sum(axis=-1, keepdims=True))
    queries, values = (mx.random.normal((*lead, length, size)) for size in (key_width, value_width))
    decay, rate = -mx.exp(mx.random.normal((*lead, length)) - 3), mx.random.uniform(shape=(*lead, length))
    memory = mx.random.normal((*lead, key_width, value_width))
    given = queries * key_width**-0.5, keys, values, decay, rate, memory
    found = delta_chunks_cuda.cuda(*given)
    with mx.stream(mx.cpu):  # a GPU's own products may be coarser than float32
        expected = sequential(*given)
    for ours, theirs in zip(found, expected, strict=True):
        assert mx.allclose(ours, theirs, rtol=0, atol=1e-4)


def made_rule(config: LinearConfig, is_grouped: bool) -> Rule:
    heads = config.value_heads
    return Rule(
        config,
        is_grouped,
        mx.random.normal((config.channels, config.kernel)).astype(mx.bfloat16),
        mx.random.normal((heads,)),
        mx.random.normal((heads,)),
        1 + 0.1 * mx.random.normal((config.value_width,)),
        1e-6,
    )


def close(state: State | None, expected: State | None) -> bool:
    assert state is not None
    assert expected is not None
    tail, memory = state
    near = mx.allclose(
        memory, expected[1], rtol=0, atol=5e-3
    )  # a GPU's own products may be coarser than float32
    return bool(mx.array_equal(tail.astype(mx.float32), expected[0])) and bool(near)
