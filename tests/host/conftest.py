"""Hosts of both pinned versions, one a session each, with a few models in their store.

MLX_RUNNER_HOST_VERSIONS="v0.34.0 ..." tries others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.store.resolve import DEMO_FOLDER
from tests.parts import tiny
from tests.parts.hosts import BUILD, DEMO_TEMPLATE, PINNED, Host, import_model, serving
from tests.parts.stores import TENSOR, blob, manifest

BUILD_S = 900.0
NPM_S = 120.0
VERSIONS = os.environ.get("MLX_RUNNER_HOST_VERSIONS", PINNED).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is marked, whatever else the files say."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
            item.add_marker(pytest.mark.slow)


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Of the processes that share the tests one at a time, also of other runs on this machine."""
    with open(Path(tempfile.gettempdir()) / f"mlx-runner-{os.getuid()}-{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", params=VERSIONS)
def program(request: pytest.FixtureRequest) -> Path:
    """The built `ollama`; the first build of a version takes a minute or two."""
    version: str = request.param
    with alone("build"):
        done = subprocess.run([BUILD, version], stdout=subprocess.PIPE, text=True, timeout=BUILD_S)
    for tool in ("go", "cc"):
        if done.returncode and shutil.which(tool) is None:
            pytest.skip(f"`{tool}` is needed to build Ollama's host, and there is none on PATH")
    assert done.returncode == 0, f"scripts/ollama_host/build {version} failed; what it says is above"
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """demo, also quantized; endless, which is slow and never stops by itself; and two that do not load."""
    folder = tmp_path_factory.mktemp("store")
    models = tmp_path_factory.mktemp("models")
    endless = tiny.write(models / "endless", **tiny.SLOW)
    (endless / "generation_config.json").write_text("{}")  # no end-of-sequence token
    strange = tiny.write(models / "strange")
    (strange / "config.json").write_text(json.dumps(tiny.CONFIG | {"architectures": ["StrangeForCausalLM"]}))
    torn = tiny.write(models / "torn", seed=3)

    import_model(folder, DEMO_FOLDER, "demo", "--template", DEMO_TEMPLATE)
    import_model(folder, DEMO_FOLDER, "demo:int4", "--template", DEMO_TEMPLATE, "--quantize", "int4")
    import_model(folder, endless, "endless")
    import_model(folder, strange, "strange")
    import_model(folder, torn, "torn")
    tensor = next(layer for layer in manifest(folder, "torn")["layers"] if layer["mediaType"] == TENSOR)
    path = blob(folder, tensor)
    path.write_bytes(path.read_bytes()[:-8])
    return folder


@pytest.fixture(scope="session")
def host(program: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with serving(program, store, tmp_path_factory.mktemp("home")) as served:
        yield served


@pytest.fixture(scope="session")
def javascript(program: Path) -> Path:
    """A folder with the official JavaScript client, beside what was built."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is needed for the JavaScript client, and there is none on PATH")
    folder = program.parent.parent.parent / "javascript"
    with alone("npm"):
        if not (folder / "node_modules/ollama").exists():
            folder.mkdir(exist_ok=True)
            install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "ollama@0.6"]
            subprocess.run(install, cwd=folder, check=True, timeout=NPM_S)
    return folder
