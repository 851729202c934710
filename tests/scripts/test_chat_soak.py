"""scripts/chat_soak.py: what it asks, and how it tells whether memory stays what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from reliability.growing_chat import flatness

from tests.parts import tiny

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 300.0


def test_memory_is_flat_where_the_last_chats_take_what_the_second_ones_did() -> None:
    found = flatness(
        {"held_bytes": [9, 9, 100, 100, 100, 100, 100, 100, 102, 102], "resident_bytes": [1] * 9}
    )
    assert found == {"held_bytes": 1.02}, "of nine chats a fifth is one, which says too little"


def test_chats_grow_are_edited_and_begin_anew(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "tiny", max_position_embeddings=600)
    command: list[str | Path] = [sys.executable, ROOT / "scripts/chat_soak.py", "--model", model]
    command += ["--requests", "60", "--context", "600", "--save", tmp_path / "report.json"]
    command += ["--draw", tmp_path / "memory.svg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["exit_code"] == 0
    assert sum(report["asked"].values()) == 60
    assert min(report["asked"].values()) > 5, "next turns, regenerated ones, edited ones"
    assert len(set(report["peaks"]["held_bytes"])) == 1, "each chat is as long as the one before"
    assert len(report["peaks"]["held_bytes"]) == report["chats"] - 1 > 2
    assert len(json.loads((tmp_path / "report.json").read_text())["samples"]) == 60
    assert "requests" in (tmp_path / "memory.svg").read_text()
