"""`mlx-runner import`: what it tells, what it needs, and how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from api.commands import importing
from runner.quantization.settings import KINDS
from tests.parts.checkpoints import checkpoint, floats
from tests.parts.processes import EXIT_S, START_S, wait_until
from tests.parts.quantized import Q4, in_mlx_spelling
from tests.parts.stores import bring_in, layers

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "api", "import", str(folder), "--name", "tiny", *words]


def environment(store: Path) -> dict[str, str]:
    return os.environ | {"OLLAMA_MODELS": str(store)}


def test_the_command_quantizes_and_tells_what(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", floats())
    run = command(folder, "--quantize", "mxfp4")
    done = subprocess.run(run, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("imported tiny:latest: 20 tensors (8 mxfp4, 7 mxfp8, 5 F32), ")
    assert " MB to " in done.stdout
    wrong = subprocess.run(command(folder, "--quantize", "int3"), capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "invalid choice: 'int3'" in wrong.stderr
    again = checkpoint(tmp_path / "again", in_mlx_spelling(floats(), lambda path: Q4))
    refused = subprocess.run(
        command(again, "--quantize", "int4"), env=environment(tmp_path), capture_output=True, text=True
    )
    assert refused.returncode == 4
    assert refused.stderr == "Error: the model is quantized already; --quantize takes float models\n"


@pytest.mark.parametrize(
    "words", [["show", "demo"], ["import", "DIR", "--name", "tiny", "--quantize", "int4"]]
)
def test_without_mlx_one_line_says_what_to_install(tmp_path: Path, words: list[str]) -> None:
    folder = str(checkpoint(tmp_path / "tiny", floats()))
    given = [word.replace("DIR", folder) for word in words]
    program = "import sys; sys.modules['mlx'] = None; import api.__main__ as it; it.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *given], env=environment(tmp_path), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: MLX has no backend on this machine: pip install 'mlx-runner[cpu]'")
    assert done.stderr.count("\n") == 1


class Terminal(io.StringIO):
    """Takes what a person would see."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bytes_and_the_present_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.redirect_stderr(Terminal()) as terminal:
        bar = importing.Bar()
        bar.show(0, 2_000_000, UP)
        bar.show(1_000_000, 2_000_000, DOWN)  # too soon after it to be drawn
        bar.show(2_000_000, 2_000_000, "")
    first = f"importing [{'.' * 30}] 0.0 MB of 2.0 MB {UP}"[:79]
    assert terminal.getvalue() == (f"\r{first}\x1b[K\rimporting [{'#' * 30}] 2.0 MB of 2.0 MB \x1b[K\n")
    with contextlib.redirect_stderr(io.StringIO()) as log:
        importing.Bar().show(0, 1, UP)
    assert log.getvalue() == ""


def test_help_says_what_the_kinds_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importing.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in (*KINDS, "Embeddings", "OLLAMA_MODELS", "mlx-runner show NAME"):
        assert word in text


# A small parent, since the largest memory of a process counts that of the one which it was forked from.
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_a_tensor_at_a_time_is_in_memory(big_model: Path, tmp_path: Path) -> None:
    """Of half a gigabyte, whose largest tensor is 64 MiB; in a process of its own, which took 210 MB."""
    run = [sys.executable, "-S", "-c", MEASURED, *command(big_model, "--quantize", "int4")]
    finished = subprocess.run(run, env=environment(tmp_path), stdout=subprocess.PIPE, check=True)
    largest = int(finished.stdout.split()[-1])
    kilobytes = largest // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 400_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_is_ended_half_way_changes_no_model(
    big_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    bring_in(checkpoint(tmp_path / "tiny", floats()), tmp_path)
    before, blobs = layers(tmp_path), tmp_path / "blobs"
    there = len(list(blobs.iterdir()))
    run = command(big_model, "--quantize", "mxfp4")
    with subprocess.Popen(run, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list(blobs.iterdir())) > there + 1, START_S, "the second blob")
        process.send_signal(number)
        _, said = process.communicate(timeout=EXIT_S)
    assert layers(tmp_path) == before
    if number is signal.SIGKILL:
        assert process.returncode == -number
        return
    assert (process.returncode, said) == (130, "interrupted: nothing was imported\n")
    assert not list(blobs.glob(".import-*"))
    assert not list(tmp_path.glob(".import-*"))
