"""A runner that ends and starts again has what it had."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.parts.disk import entries
from tests.parts.log_lines import is_complaint
from tests.parts.processes import spawned, stopped
from tests.parts.streams import Request, ask

PROMPT = "a prompt of more than sixty-four tokens, " * 3


def cached(port: int) -> int:
    with Request(port, ask(PROMPT, 5)) as request:
        return request.answer().cached


def test_a_tidy_end_saves_what_the_next_start_restores(tiny_model: Path, tmp_path: Path) -> None:
    arguments = [
        "runner",
        "--model",
        str(tiny_model),
        "--port",
        "PORT",
        "--cache-dir",
        str(tmp_path / "made"),
    ]
    with spawned(*arguments) as running:
        running.wait_ready()
        assert cached(running.port) == 0
        stopped(running, signal.SIGTERM, "idle, with something to save")
    assert [path.suffix for path in entries(tmp_path / "made")] == [".safetensors"]
    environment = {"MLX_RUNNER_CACHE_DIR": str(tmp_path / "made")}
    with spawned(*arguments[:-2], environment=environment) as running:
        running.wait_ready()
        assert cached(running.port) == len(PROMPT)


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [({}, "others may look into it (mode 755)"), ({"MLX_RUNNER_CACHE_SIZE": "big"}, "big: expected a size")],
)
def test_a_folder_or_a_size_that_will_not_do_is_a_usage_error(
    environment: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    with spawned("--cache-dir", str(tmp_path), "--port", "PORT", environment=environment) as running:
        assert running.exit_code() == 2
        assert complaint in is_complaint(running.output.text)
