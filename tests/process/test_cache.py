"""A runner that ends and starts again has what it had."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.parts import tiny
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


def test_what_was_kept_quantized_is_nothing_to_who_keeps_floats(tmp_path: Path) -> None:
    """A host's variable and the option mean the same; of both it is the option."""
    model = tiny.write(tmp_path / "model", head_dim=32)
    arguments = ["runner", "--model", str(model), "--port", "PORT", "--cache-dir", str(tmp_path / "made")]
    found: list[tuple[str, int]] = []
    held: dict[str, int] = {}
    for options, variable in (
        (["--kv-type", "q8_0"], ""),
        (["--kv-type", "f16"], "q8_0"),
        ([], "Q8_0"),
    ):
        with spawned(*arguments, *options, environment={"OLLAMA_KV_CACHE_TYPE": variable}) as running:
            running.wait_ready()
            before = cached(running.port)
            told = httpx.get(f"http://127.0.0.1:{running.port}/v1/cache").json()
            status = httpx.get(f"http://127.0.0.1:{running.port}/v1/status").json()
            assert status["kv_type"] == told["kv_type"]
            found.append((told["kv_type"], before))
            held[told["kv_type"]] = told["bytes"]
            stopped(running, signal.SIGTERM, "idle, with something to save")
    assert found == [("q8_0", 0), ("f16", 0), ("q8_0", len(PROMPT))]
    assert held["q8_0"] == held["f16"] * 10 / 32


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
