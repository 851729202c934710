"""Whether quantized weights become floats, and the line that says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.machine import device, memory
from runner.types import Done, GenerateRequest
from runner.worker import Worker
from tests.parts.answer import Answer
from tests.parts.checkpoints import TOKENS, checkpoint, floats
from tests.parts.models import loaded, logits, parameters
from tests.parts.quantized import Q4, in_mlx_spelling, mixed


def said(caplog: pytest.LogCaptureFixture) -> Any:
    records = [record for record in caplog.records if record.getMessage() == "Quantized weights"]
    assert len(records) == 1
    return records[0]


def test_on_a_cpu_they_become_floats_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    with caplog.at_level(logging.INFO):
        model = loaded(folder).model
    assert {array.dtype for array in parameters(model).values()} == {mx.float32}
    record = said(caplog)
    assert record.stored == "15 affine 4 bits by 64"
    assert (record.packed, record.dequantized, record.reason) == (0, 15, "faster as floats on cpu")


def test_what_would_not_fit_into_memory_stays_packed_and_the_line_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    monkeypatch.setattr(memory, "total", lambda: 1_000_000)
    with caplog.at_level(logging.INFO):
        model = loaded(folder).model
    assert parameters(model)["model.embed_tokens.weight"].dtype == mx.uint32
    assert said(caplog).packed == 15
    assert said(caplog).reason.endswith("bytes as floats, limit 600000")


def test_a_worker_that_was_told_so_keeps_them_packed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), mixed))
    worker = Worker(1, lambda reason: None, packed=True)
    worker.start()
    with caplog.at_level(logging.INFO):
        worker.load(str(folder)).result(20)
    answer = Answer()
    worker.generate(GenerateRequest("hello", 3), answer)
    assert isinstance(answer.end(), Done)
    worker.stop()
    assert worker.join(20)
    assert (said(caplog).packed, said(caplog).dequantized, said(caplog).reason) == (13, 0, "asked for")


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_off_the_cpu_half_types_stay_what_they_are(
    tmp_path: Path, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "kind", lambda: "cuda")
    monkeypatch.setattr(memory, "budget", lambda: 2**40)
    halves = {name: array.astype(dtype) for name, array in floats().items()}
    files = checkpoint(tmp_path / "tiny", in_mlx_spelling(halves, mixed))
    for free, types in ((0, {dtype, mx.uint32, mx.uint8}), (2**40, {dtype})):
        monkeypatch.setattr(memory, "free", lambda free=free: free)
        model = loaded(files).model
        assert {array.dtype for array in parameters(model).values()} == types
    assert logits(model, TOKENS).dtype == dtype


def test_memory_is_that_of_the_machine_or_less() -> None:
    assert 2**26 < memory.total() < 2**50


def test_a_float_model_logs_nothing_of_the_kind(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loaded(tiny_model)
    assert not [record for record in caplog.records if record.getMessage() == "Quantized weights"]
