"""A trial of kernels behind a load: plain forms stand for them, and products that are wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from runner import serving
from runner.cache.slots import Slots
from runner.generation.trial import kernels_agree
from runner.kernels import choice, compiled
from runner.kernels.choosing import Choosing, Chosen
from runner.kernels.few_rows import PLAIN, FewRows
from runner.kernels.nvrtc import CompilerError
from runner.kernels.product import PLAIN as PLAIN_PRODUCTS
from runner.kernels.product import Around, Matrix, Product, Products
from runner.kernels.rows_attention import PLAIN as PLAIN_ATTENTION
from runner.layers import nn
from runner.layers.fused import fuse
from runner.loading.loaded_model import LoadedModel
from runner.machine import device
from runner.worker import Worker
from tests.parts.answer import WAIT_S
from tests.parts.choosing import PAIRS, in_pairs
from tests.parts.models import loaded

WITHOUT_SEAM = PLAIN._replace(seam=lambda parts: None)


def fused(path: Path, ways: FewRows, slots: int = 3) -> LoadedModel:
    model = loaded(path)
    assert isinstance(model.model, nn.Module)
    assert fuse(model.model, ways) > 0
    return replace(model, slots=Slots(model.model.make_memory, slots))


def wrong(change: Callable[[mx.array], mx.array]) -> FewRows:
    """Products whose results are changed."""

    def make(matrix: Matrix, around: Around) -> Product:
        product = PLAIN_PRODUCTS.make(matrix, around)
        return lambda x, residual: change(product(x, residual))

    return WITHOUT_SEAM._replace(products=Products(PLAIN_PRODUCTS.fits, make))


@pytest.mark.parametrize("ways", [PLAIN, WITHOUT_SEAM])
def test_kernels_that_find_what_prompts_find_pass(tiny_model: Path, ways: FewRows) -> None:
    for slots in (1, 3):
        assert kernels_agree(fused(tiny_model, ways, slots), PLAIN_ATTENTION)


@pytest.mark.parametrize(
    "change",
    [lambda y: y * mx.nan, lambda y: y[..., ::-1], lambda y: mx.concatenate([y[:1], y[1:] * -1])],
    ids=["no numbers", "turned round", "the second row"],
)
def test_kernels_that_find_something_else_do_not(
    tiny_model: Path, change: Callable[[mx.array], mx.array]
) -> None:
    assert not kernels_agree(fused(tiny_model, wrong(change)), PLAIN_ATTENTION)


def test_a_kernel_that_does_not_compile_does_not(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refused(y: mx.array) -> mx.array:
        raise CompilerError("kernel.cu(30): error")

    assert not kernels_agree(fused(tiny_model, wrong(refused)), PLAIN_ATTENTION)
    assert "does not compile" in caplog.text


@pytest.mark.parametrize("part", ["tokens", "told", "tell"])
def test_a_kernel_that_finds_another_token_or_tells_another_does_not(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """It is wrong from the third row on, as where the second of several arrays is."""
    wrong_from = mx.array([0, 0, 1, 1, 1], mx.uint32)

    def largest(logits: mx.array) -> Chosen:
        tokens, told = PAIRS.largest(logits)
        if part == "told":
            told = in_pairs(tokens + wrong_from)
        return Chosen(tokens + wrong_from if part == "tokens" else tokens, told)

    def tell(tokens: mx.array) -> list[mx.array]:
        return in_pairs(tokens + wrong_from if part == "tell" else tokens)

    model = fused(tiny_model, PLAIN)
    monkeypatch.setattr(choice, "choosing", lambda: PAIRS)
    assert kernels_agree(model, PLAIN_ATTENTION)
    monkeypatch.setattr(choice, "choosing", lambda: Choosing(largest, tell))
    assert not kernels_agree(model, PLAIN_ATTENTION)


def test_a_model_whose_kernels_fail_is_loaded_once_more_without_them(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def disagree(model: LoadedModel, at_once: object) -> bool:
        tried.append(threading.current_thread().name)
        return False

    monkeypatch.setattr(device, "compiles_kernels", lambda: True)
    monkeypatch.setattr(serving, "kernels_agree", disagree)
    monkeypatch.setattr(compiled, "_trusted", True)
    made = Worker(5, lambda reason: None)
    made.start()
    made.load(str(tiny_model)).result(WAIT_S)
    assert made.status.ready
    made.stop()
    assert made.join(WAIT_S)
    assert tried == ["mlx"]
    assert not compiled._trusted
