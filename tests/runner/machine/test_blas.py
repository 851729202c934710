"""Which BLAS is opened, seen in the memory map of a process that imported the runner."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.machine.blas import WAIT_MS
from tests.parts.processes import linux_only

pytestmark = linux_only

PROGRAM = """
import json, sys
sys.prefix = sys.argv[1]  # the environment in which an installed MKL is looked for
import runner
from runner.machine import blas
if "multiply" in sys.argv:
    import mlx.core as mx
    mx.eval(mx.ones((8, 8), stream=mx.cpu) @ mx.ones((8, 8), stream=mx.cpu))
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(json.dumps([blas.blas_name(), blas.blas_is_slow(), sorted(mapped)]))
"""
BLOCKTIME = """
import runner, ctypes, sys
print(ctypes.CDLL(sys.prefix + "/lib/libiomp5.so").kmp_get_blocktime())
"""
OPENMP, MKL = "libiomp5.so", "libmkl_rt.so.3"


@dataclass(frozen=True)
class Opened:
    name: str | None
    slow: bool
    mapped: tuple[str, ...]

    def has(self, library: str) -> bool:
        return any(Path(path).name.startswith(library) for path in self.mapped)


def opened(environment: Path, *arguments: str, libraries: Path | None = None) -> Opened:
    """What a process opens; libraries: a folder that the system's loader looks into first."""
    variables = os.environ | ({"LD_LIBRARY_PATH": str(libraries)} if libraries else {})
    command = [sys.executable, "-c", PROGRAM, str(environment), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    name, slow, mapped = json.loads(done.stdout)
    return Opened(name, slow, tuple(mapped))


def environment(folder: Path, *libraries: str) -> Path:
    """One that has libraries of these names; any real library will do to be opened."""
    any_library = importlib.util.find_spec("_ctypes")
    assert any_library is not None
    assert any_library.origin is not None
    (folder / "lib").mkdir()
    for library in libraries:
        shutil.copy(any_library.origin, folder / "lib" / library)
    return folder


def unreadable(folder: Path, library: str) -> Path:
    """The folder with a file of this name that is no library."""
    (folder / library).write_text("not a library\n")
    return folder


def test_mkl_is_opened_with_its_openmp_where_the_environment_has_both(tmp_path: Path) -> None:
    found = opened(environment(tmp_path, OPENMP, MKL))
    assert (found.name, found.slow) == ("MKL", False)
    assert {str(tmp_path / "lib" / OPENMP), str(tmp_path / "lib" / MKL)} <= set(found.mapped)
    assert not found.has("libopenblas")


@pytest.mark.parametrize("version", ["", ".2", ".4"])
def test_the_number_in_the_name_of_mkl_does_not_matter(tmp_path: Path, version: str) -> None:
    assert opened(environment(tmp_path, OPENMP, f"libmkl_rt.so{version}")).name == "MKL"


def test_mkl_without_openmp_is_left_alone_since_it_would_end_the_process(tmp_path: Path) -> None:
    found = opened(environment(tmp_path, MKL))
    assert found.name != "MKL"
    assert not found.has("libmkl_rt")


def test_a_broken_mkl_is_as_none(tmp_path: Path) -> None:
    environment(tmp_path, OPENMP)
    unreadable(tmp_path / "lib", MKL)
    assert opened(tmp_path).name == opened(tmp_path / "empty").name != "MKL"


def test_openblas_is_named_where_it_is_mapped_and_else_none_is(tmp_path: Path) -> None:
    found = opened(tmp_path)
    assert (found.name, found.slow) == (("OpenBLAS", False) if found.has("libopenblas") else (None, True))


def test_without_either_mlx_multiplies_by_itself_and_that_is_known_to_be_slow(tmp_path: Path) -> None:
    found = opened(tmp_path, "multiply", libraries=unreadable(tmp_path, "libopenblas.so.0"))
    assert (found.name, found.slow) == (None, True)


needs_mkl = pytest.mark.skipif(
    not list(Path(sys.prefix, "lib").glob("libmkl_rt.so*")), reason="mkl is not installed"
)


@needs_mkl
def test_a_product_of_mlx_runs_in_the_mkl_of_this_environment() -> None:
    """Its kernels are opened when a function of it is called for the first time."""
    before, after = opened(Path(sys.prefix)), opened(Path(sys.prefix), "multiply")
    assert before.name == after.name == "MKL"
    assert not before.has("libmkl_core")
    assert after.has("libmkl_core")


@needs_mkl
@pytest.mark.parametrize(("asked", "milliseconds"), [(None, int(WAIT_MS)), ("7", 7)])
def test_threads_of_mkl_wait_on_their_cores_for_the_next_product_or_as_long_as_they_are_asked_to(
    asked: str | None, milliseconds: int
) -> None:
    others = {name: value for name, value in os.environ.items() if name != "KMP_BLOCKTIME"}
    variables = others | ({} if asked is None else {"KMP_BLOCKTIME": asked})
    command = [sys.executable, "-c", BLOCKTIME]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    assert int(done.stdout) == milliseconds
