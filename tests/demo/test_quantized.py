"""The demo model in every kind that an import makes: it still knows what it knew."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))  # as in test_demo.py

import perplexity as measure  # noqa: E402

from runner.quantization.settings import KINDS  # noqa: E402

DOCUMENTS = 20
WORSE_AT_MOST = 1.005  # times the floats' perplexity; 1.001 was the worst


@pytest.fixture(scope="module")
def of_floats(tmp_path_factory: pytest.TempPathFactory) -> float:
    return measure.perplexity(measure.store_demo(tmp_path_factory.mktemp("store"), None).load(), DOCUMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_demo_answers_and_is_hardly_more_perplexed(
    tmp_path: Path, kind: str, of_floats: float
) -> None:
    stored = measure.store_demo(tmp_path, kind)
    loaded, packed = stored.load(), stored.load(packed=True)
    for question in ("What is 7 plus 5?", "What is the capital of Japan?"):
        right = measure.QUESTIONS[question]
        assert (measure.answer(loaded, question), measure.answer(packed, question)) == (right, right)
    assert measure.perplexity(loaded, DOCUMENTS) < WORSE_AT_MOST * of_floats
    assert measure.perplexity(packed, 1) == pytest.approx(measure.perplexity(loaded, 1), rel=1e-5)
