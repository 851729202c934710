"""The official test suite of JSON Schema through the grammars of its schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent.parent / "scripts" / "schema_suite.py"
CANNOT_FETCH = 3  # the script's exit code
DRAFTS = {"draft4", "draft6", "draft7", "draft2019-09", "draft2020-12"}


@pytest.mark.slow  # fetching the suite takes a while, once
def test_no_grammar_is_wider_than_its_schema_and_each_narrower_one_has_a_reason() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    if done.returncode == CANNOT_FETCH:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts.keys() == DRAFTS
    for draft, count in counts.items():
        assert "unexplained" not in count, draft
        assert "accepts what is invalid" not in count, draft
        assert count["agrees"] > sum(count.values()) / 2, draft
