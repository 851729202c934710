"""SmolLM2-135M-Instruct as scripts/smollm2.py makes it, and questions in its chat template."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
MAKE_S = 300.0  # most of it the fetching of 93 MB, once
CANNOT_FETCH = 3  # the script's exit code

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def run_script(
    *arguments: Path | str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / "smollm2.py", *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=MAKE_S,
    )


def made(folder: Path, *options: str) -> Path:
    """The directory; the test is skipped where the wheel cannot be fetched."""
    done = run_script(folder, *options)
    if done.returncode == CANNOT_FETCH:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return folder


def question(text: str) -> str:
    """A user's only message in ChatML, up to where the answer begins."""
    turns = [("system", SYSTEM), ("user", text)]
    asked = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return f"{asked}<|im_start|>assistant\n"
