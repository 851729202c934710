"""A real Ollama server with our runner in it, as scripts/ollama_host builds it, and what can be seen of it.

Everything waits for a condition with a deadline; nothing outlives its `with`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.parts.processes import COMMAND, Output, children, free_port, is_alive, ping, wait_until

PINNED = "v0.34.4 v0.17.4"
START_S = 30.0  # until a host listens, or a model answers; a hint to fail by, not a measure
ANSWER_S = 60.0

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
BUILD = SCRIPTS / "ollama_host" / "build"
DEMO_TEMPLATE = SCRIPTS / "ollama_host" / "demo.gotmpl"
SMOLLM2_TEMPLATE = SCRIPTS / "ollama_host" / "smollm2.gotmpl"


class Refused(Exception):
    """What the API answers instead of a 200."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error


class Host:
    """One `ollama serve` and its children."""

    def __init__(self, process: subprocess.Popen[bytes], output: Output, port: int, program: Path) -> None:
        self.process = process
        self.output = output
        self.port = port
        self.program = program
        self.version = program.parent.parent.name

    def is_since(self, version: str) -> bool:
        return _numbers(self.version) >= _numbers(version)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str) -> dict[str, Any]:
        with self._exchange("GET", path, None) as response:
            return _object(response.read())

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """The whole answer at once."""
        with self._exchange("POST", path, body | {"stream": False}) as response:
            return _object(response.read())

    def generate(self, prompt: str, model: str = "demo", **body: Any) -> dict[str, Any]:
        return self.ask("/api/generate", model=model, prompt=prompt, **body)

    @contextlib.contextmanager
    def stream(
        self, path: str, *, timeout_s: float = ANSWER_S, **body: Any
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """The records as they come; leaving the `with` hangs up, as does TimeoutError when nothing comes."""
        with self._exchange("POST", path, body, timeout_s) as response:
            assert response.headers["Content-Type"] == "application/x-ndjson"
            yield (_object(line) for line in response)

    def command(self, *arguments: str) -> str:
        """What `ollama ARGUMENTS` prints."""
        done = subprocess.run(
            [self.program, *arguments],
            env=os.environ | {"OLLAMA_HOST": self.address},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runners(self) -> list[int]:
        """The process ids of its living runners."""
        return [pid for pid in children(self.process.pid) if is_alive(pid)]

    def runner(self) -> int:
        """That of its only one."""
        (pid,) = self.runners()
        return pid

    def runner_memory(self) -> int:
        """What the runner that was started last says it uses."""
        port = re.findall(r'msg="starting mlx runner subprocess" .*port=(\d+)', self.output.text)[-1]
        answer = ping(int(port))
        assert answer is not None
        memory: int = answer[1]["Memory"]
        return memory

    def unload(self) -> None:
        """Every model, and until no runner is left."""
        for model in self.get("/api/ps")["models"]:
            self.ask("/api/generate", model=model["name"], keep_alive=0)
        wait_until(lambda: not self.runners(), START_S, "the runners' end")
        wait_until(lambda: not self.get("/api/ps")["models"], START_S, "an empty ps")

    def is_listening(self) -> bool:
        assert self.process.poll() is None, self.output.text
        try:
            return "version" in self.get("/api/version")
        except ConnectionError:
            return False

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: Any, timeout_s: float = ANSWER_S
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            try:
                if response.status != 200:
                    raise Refused(response.status, _object(response.read())["error"])
                yield response
            finally:
                response.close()
        finally:
            connection.close()


@contextlib.contextmanager
def serving(program: Path, store: Path, home: Path, runner: str = COMMAND, **settings: str) -> Iterator[Host]:
    """A host that listens; killed at the end with all its runners. settings: more of its environment."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    environment |= {
        **settings,
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(store),
        "OLLAMA_MLX_RUNNER": runner,
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
    }
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [program, "serve"],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    output = Output(reading)
    output.start()
    host = Host(process, output, port, program)
    try:
        wait_until(host.is_listening, START_S, "the host to listen")
        yield host
    finally:
        runners = host.runners()
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_alive, runners)), START_S, "the runners' end")


def import_model(store: Path, source: Path, name: str, *more: str | Path) -> None:
    """By `mlx-runner import`."""
    command = [COMMAND, "import", source, "--name", name, *more]
    environment = os.environ | {"OLLAMA_MODELS": str(store)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


def thinking_template(plain: Path, opening: str, closing: str) -> str:
    """One whose model thinks, to a host, which takes what stands around .Thinking for the marks."""
    text = plain.read_text()
    thought = f"{{{{ if .Thinking }}}}{opening}{{{{ .Thinking }}}}{closing}{{{{ end }}}}"
    assert text.count("{{ .Content }}") == 1
    return text.replace("{{ .Content }}", thought + "{{ .Content }}")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict), text
    return value
