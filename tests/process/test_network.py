"""A runner that other machines may reach."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from tests.parts.log_lines import is_complaint
from tests.parts.processes import START_S, Running, children, linux_only, ping, spawned, wait_until

SECRET = "never-in-any-output"


def wait_until_served(running: Running) -> None:
    wait_until(lambda: (ping(running.port) or (0,))[0] == 200, START_S, "200 on /health")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.example"])
def test_an_address_for_others_needs_a_token_or_a_word(host: str) -> None:
    with spawned("--host", host, "--port", "PORT") as running:
        assert running.exit_code() == 2
        assert is_complaint(running.output.text) == (
            f"--host {host} lets other machines in: set MLX_RUNNER_TOKEN, or say --open-to-network"
        )


@pytest.mark.parametrize("value", ["", " ", "two words", "\x7f", "ключ", f"{SECRET}\n"])
def test_a_token_that_no_header_carries_ends_the_start_and_is_not_repeated(value: str) -> None:
    with spawned("--port", "PORT", environment={"MLX_RUNNER_TOKEN": value}) as running:
        assert running.exit_code() == 2
        assert is_complaint(running.output.text).startswith("MLX_RUNNER_TOKEN: expected 1 to 1000 letters")
        assert SECRET not in running.output.text


def test_a_word_opens_it_and_the_name_still_counts() -> None:
    with spawned("--host", "0.0.0.0", "--port", "PORT", "--open-to-network") as running:
        wait_until_served(running)
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("GET", "/health", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 403
        connection.close()


def test_a_token_opens_it_for_whoever_shows_it_and_is_never_said() -> None:
    environment = {"MLX_RUNNER_TOKEN": SECRET, "OLLAMA_DEBUG": "2"}
    arguments = ["runner", "--model", "demo", "--host", "0.0.0.0", "--port", "PORT"]
    with spawned(*arguments, environment=environment) as running:
        wait_until_served(running)
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        for token, status in ((SECRET, 200), ("wrong", 401)):
            headers = {"Host": "runner.example", "Authorization": f"Bearer {token}"}
            connection.request("GET", "/v1/status", headers=headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.close()
        running.output.wait_for("status=401")
    assert SECRET not in running.output.text
    assert "Ollama shows none" in running.output.text


@linux_only
def test_the_watching_process_does_not_inherit_the_token() -> None:
    with spawned("--port", "PORT", environment={"MLX_RUNNER_TOKEN": SECRET}) as running:
        wait_until_served(running)
        (watcher,) = children(running.pid)
        inherited = Path(f"/proc/{watcher}/environ").read_bytes()
    assert b"PATH=" in inherited
    assert SECRET.encode() not in inherited
