"""Who gets which form: the device that computes decides, once."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels import activations, attention, choice, rotation
from runner.kernels.attention_cuda import on_cuda
from runner.machine import device

TURNING = rotation.Turning(width=8, dims=8, base=10_000.0)


def test_a_cpu_has_forms_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "kind", lambda: "cpu")
    assert choice.activations() is activations.CPU
    assert choice.attention() is attention.on_cpu
    assert type(choice.rotation(TURNING)) is rotation.OnCpu


@pytest.mark.parametrize("kind", ["metal", "cuda"])
def test_a_gpu_has_the_operations_of_mlx(monkeypatch: pytest.MonkeyPatch, kind: device.Kind) -> None:
    monkeypatch.setattr(device, "kind", lambda: kind)
    assert choice.activations() is activations.PLAIN
    assert choice.attention() is (mx.fast.scaled_dot_product_attention if kind == "metal" else on_cuda)
    assert type(choice.rotation(TURNING)) is rotation.Plain
