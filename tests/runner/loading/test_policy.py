"""Which quantized matrices stay packed, and why."""

from __future__ import annotations

import pytest

from runner.loading.policy import CPU_SHARE, CUDA_SHARE, Decision, packed_or_dense
from runner.machine import device, memory

TOTAL = 1_000_000
LIMIT = int(CPU_SHARE * TOTAL)
FREE = 500_000
CUDA_LIMIT = int(CUDA_SHARE * FREE)


@pytest.mark.parametrize(
    ("kind", "dense_bytes", "asked", "has_kernels", "decision"),
    [
        ("cpu", LIMIT, False, False, Decision(False, "faster as floats on cpu")),
        ("cpu", LIMIT + 1, False, False, Decision(True, f"{LIMIT + 1} bytes as floats, limit {LIMIT}")),
        ("cpu", LIMIT, True, False, Decision(True, "asked for")),
        ("metal", LIMIT, False, False, Decision(True, "metal computes with them")),
        ("cuda", CUDA_LIMIT, False, False, Decision(False, "faster as floats on cuda")),
        (
            "cuda",
            CUDA_LIMIT + 1,
            False,
            False,
            Decision(True, f"{CUDA_LIMIT + 1} bytes as floats, limit {CUDA_LIMIT}"),
        ),
        ("cuda", CUDA_LIMIT, True, False, Decision(True, "asked for")),
        ("cuda", CUDA_LIMIT, False, True, Decision(True, "cuda computes with them")),
    ],
)
def test_packed_or_dense_depends_on_the_device_its_memory_its_kernels_and_the_wish(
    monkeypatch: pytest.MonkeyPatch,
    kind: device.Kind,
    dense_bytes: int,
    asked: bool,
    has_kernels: bool,
    decision: Decision,
) -> None:
    monkeypatch.setattr(device, "kind", lambda: kind)
    monkeypatch.setattr(memory, "total", lambda: TOTAL)
    monkeypatch.setattr(memory, "free", lambda: FREE)
    assert packed_or_dense(dense_bytes, asked=asked, has_kernels=has_kernels) == decision
