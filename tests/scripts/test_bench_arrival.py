"""The arrival of scripts/bench.py: figures of rows whose times are known."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmark.answers import Answer, Arrival, Question
from benchmark.arrival import Round, summary


def row(*arrivals: float) -> Answer:
    """A token at each of these times."""
    counted = [Arrival(at, number + 1, "a") for number, at in enumerate(arrivals)]
    return Answer(Question(0, "a prompt", 9, ()), 0.0, counted)


def test_a_pause_that_the_prompt_meets_is_counted_as_its_own() -> None:
    rows = [row(1.0, 2.0, 2.5, 3.5, 6.5, 9.0), row(2.0, 3.0, 7.0, 8.0)]
    found = summary([Round(alone_s=1.5, asked_at=3.0, first_at=7.0, rows=rows)])
    # From 2, when both stream, to 3: of the first row 2 to 2.5, of the second one 2 to 3.
    assert found["gap_s"]["without"] == {"p50": 0.5, "p99": 1.0, "worst": 1.0}
    # From 3 to 7: 2.5 to 3.5, 3.5 to 6.5, 6.5 to 9, and 3 to 7.
    assert found["gap_s"]["with"] == {"p50": 2.5, "p99": 4.0, "worst": 4.0}
    assert found["rows_tokens_per_s"] == {"without": 2.0, "with": 3 / 4}
    assert found["first_token_s"] == {"without": 1.5, "with": 4.0}


def test_rounds_share_their_pauses_and_give_the_median_of_their_rates() -> None:
    rounds = [
        Round(alone_s=1.0, asked_at=2.0, first_at=4.0, rows=[row(0.0, 1.0, 2.0, 4.0, 5.0)]),
        Round(alone_s=2.0, asked_at=2.0, first_at=5.0, rows=[row(0.0, 2.0, 5.0, 6.0)]),
        Round(alone_s=6.0, asked_at=2.0, first_at=5.0, rows=[row(0.0, 2.0, 5.0, 6.0)]),
    ]
    found = summary(rounds)
    assert found["gap_s"]["without"] == {"p50": 1.0, "p99": 2.0, "worst": 2.0}
    assert found["gap_s"]["with"] == {"p50": 3.0, "p99": 3.0, "worst": 3.0}
    assert found["rows_tokens_per_s"] == {"without": 0.5, "with": 0.3333}
    assert found["first_token_s"] == {"without": 2.0, "with": 3.0}
