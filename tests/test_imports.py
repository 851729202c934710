"""Who may import whom, and what a plain installation must do without."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import tiny

ROOT = Path(__file__).parent.parent
DEV_ONLY = (
    "numpy",
    "mlx_lm",
    "transformers",
    "torch",
    "safetensors",
    "httpx",
    "hypothesis",
    "pytest",
    "jinja2",
    "prometheus_client",
)


def full_names(path: Path) -> set[str]:
    """Everything that a module imports, inside functions too: `package.module.thing`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """The top-level names of everything that a module imports."""
    return {name.split(".")[0] for name in full_names(path)}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("runner", {"api", "fastapi", "starlette", "uvicorn", "pydantic", "asyncio", *DEV_ONLY}),
        ("api", {"mlx", "tokenizers", *DEV_ONLY}),
    ],
)
def test_no_room_imports_what_it_must_not_know(package: str, forbidden: set[str]) -> None:
    wrong = {str(f.relative_to(ROOT)): imported(f) & forbidden for f in (ROOT / package).rglob("*.py")}
    assert not {name: found for name, found in wrong.items() if found}


def test_nothing_here_opens_a_connection_to_anybody() -> None:
    clients = {"urllib.request", "http.client", "ssl", "ftplib", "smtplib", "socket.create_connection"}
    wrong = {}
    for path in [*(ROOT / "runner").rglob("*.py"), *(ROOT / "api").rglob("*.py")]:
        wrong[str(path.relative_to(ROOT))] = {
            client for name in full_names(path) for client in clients if f"{name}.".startswith(f"{client}.")
        }
    assert not {path: names for path, names in wrong.items() if names}


BELOW = {
    "machine": set(),
    "kernels": {"machine"},
    "config": {"errors"},
    "text": {"errors", "types"},
    "schemas": {"errors"},
    "grammar": {"errors", "schemas", "text", "types"},
    "cache": {"kernels", "machine"},
    "store": {"errors", "json_text"},
    "quantization": {"errors", "machine", "store"},
    "importing": {"errors", "quantization", "store"},
    "disk": {"cache", "errors", "models", "store"},
    "layers": {"cache", "config", "errors", "kernels", "quantization"},
    "models": {"cache", "config", "errors", "layers"},
    "sharding": {"errors", "layers", "models"},
    "loading": {
        *("cache", "errors", "grammar", "layers", "machine", "models", "quantization", "sharding", "store"),
        *("text", "types"),
    },
    "generation": {
        *("cache", "errors", "grammar", "kernels", "loading", "machine", "models", "text", "totals", "types"),
    },
    "ranks": {
        *("cache", "errors", "generation", "kernels", "loading", "machine", "sharding", "store"),
    },
}
"""A room of runner/ -> the rooms that it may import, beside itself."""


@pytest.mark.parametrize("room", BELOW)
def test_dependencies_between_rooms_go_one_way(room: str) -> None:
    wrong: dict[str, set[str]] = {}
    for file in (ROOT / "runner" / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in full_names(file) if name.startswith("runner.")}
        wrong[file.name] = rooms - BELOW[room] - {room}
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("leaf", ["types", "errors", "json_text", "text/stops"])
def test_leaves_import_the_standard_library_only(leaf: str) -> None:
    assert imported(ROOT / "runner" / f"{leaf}.py") <= {*sys.stdlib_module_names, "__future__"}


def test_tests_import_nothing_of_tests_but_their_parts() -> None:
    """Neither do the parts: what tests share stands there, and no test is a part of another."""
    wrong = {}
    for path in (ROOT / "tests").rglob("*.py"):
        of_tests = {name for name in full_names(path) if name.split(".")[0] == "tests"}
        wrong[str(path.relative_to(ROOT))] = {name for name in of_tests if not name.startswith("tests.parts")}
    assert not {path: names for path, names in wrong.items() if names}


def test_a_completion_needs_nothing_but_the_declared_dependencies(tmp_path: Path) -> None:
    """The test environment has more installed than a user has: take all of that away."""
    program = f"""
import sys
for name in {DEV_ONLY!r}:
    sys.modules[name] = None
import api.server
from runner.loading.loader import load
from runner.generation.alone import complete
from runner.store.resolve import open_model
from runner.types import Done, GenerateRequest
loaded = load(open_model({str(tiny.write(tmp_path / "tiny"))!r}), lambda share: None)
events = complete(loaded, GenerateRequest("hello", 3))
assert isinstance(events[-1], Done), events
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_importing_builds_no_array() -> None:
    """An array made on the importing thread could not be evaluated on the worker's."""
    program = """
import gc, pkgutil, runner, api, mlx.core as mx
for package in (runner, api):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
# Not the allocator's figures: an unevaluated array has no memory yet.
arrays = [thing for thing in gc.get_objects() if isinstance(thing, mx.array)]
assert not arrays, arrays
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
