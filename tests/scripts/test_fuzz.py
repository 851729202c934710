"""scripts/fuzz.py in its short form, and that it sees what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from reliability import changes
from reliability.fuzzing import KINDS, shares
from reliability.process import Reply
from reliability.replies import PLAIN, Wrong, check_error, check_stream

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 300.0
DONE = b'{"content":"","done":true}\n'


@pytest.mark.slow
def test_some_inputs_of_every_kind_do_no_harm() -> None:
    command: list[str | Path] = [
        sys.executable,
        ROOT / "scripts/fuzz.py",
        "--seed",
        "short",
        "--count",
        "160",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["kinds"].keys() == {kind.name for kind in KINDS}
    assert report["count"] >= 150


def test_an_input_is_that_of_its_seed_and_number(tmp_path: Path) -> None:
    value = {"a": [1, {"b": "text"}], "c": None}
    made = [changes.json_bytes(Random(f"seed/{number}"), value) for number in range(50)]
    assert made == [changes.json_bytes(Random(f"seed/{number}"), value) for number in range(50)]
    assert len(set(made)) > 40
    assert value == {"a": [1, {"b": "text"}], "c": None}


def test_every_kind_has_its_share() -> None:
    counts = shares(100_000, KINDS)
    assert abs(sum(counts.values()) - 100_000) < len(KINDS)
    assert all(count > 5_000 for count in counts.values())
    assert set(shares(1, KINDS).values()) == {1}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "breaks off"),
        (b'{"content":"x","done":false}', "breaks off"),
        (b'{"content":"x","done":false}\n', "ends at"),
        (DONE + DONE, "ends at"),
        (DONE + b'{"content":"x","done":false}\n', "ends at"),
        (b'{"content":"x","done":false,"x":NaN}\n' + DONE, "no JSON"),
        (b"[]\n" + DONE, "no record"),
        (b'{"content":"' + b"x" * 65_536 + b'","done":false}\n' + DONE, "a line of"),
    ],
)
def test_a_stream_that_must_not_be_is_told(body: bytes, why: str) -> None:
    assert check_stream(DONE)["done"]
    with pytest.raises(Wrong, match=why):
        check_stream(body)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(500, PLAIN, b"oops\n", 0.0), "status 500"),
        (Reply(400, "application/json", b"{}\n", 0.0), "no plain line"),
        (Reply(400, PLAIN, b"two\nlines\n", 0.0), "no plain line"),
        (Reply(400, PLAIN, b"no such file: /secret/place\n", 0.0), "tells '/secret'"),
        (Reply(400, PLAIN, b"Traceback (most recent call last)\n", 0.0), "tells 'Traceback'"),
        (Reply(400, PLAIN, b"x" * 10_000 + b"\n", 0.0), "10001 bytes"),
    ],
)
def test_an_error_that_must_not_be_is_told(reply: Reply, why: str) -> None:
    check_error(Reply(400, PLAIN, b"empty prompt\n", 0.0), (400,), ("/secret",))
    with pytest.raises(Wrong, match=why):
        check_error(reply, (400,), ("/secret",))
