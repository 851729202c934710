"""Compiled kernels are kept, found again, and done without where they cannot be had. The compiler is a fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from runner.kernels import compiled, nvrtc
from runner.kernels.program import Array, Program
from runner.machine import kernel_folder

PROGRAM = Program("twice", (Array("x", mx.float32),), (Array("out", mx.float32),), "out[0] = 2 * x[0];")


class Compiler:
    """Code is what was compiled, backwards."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def compiled(self, source: str, capability: int) -> bytes:
        self.sources.append(source)
        return source[::-1].encode()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made = Compiler()
    monkeypatch.setenv(kernel_folder.VARIABLE, str(tmp_path))
    monkeypatch.setattr(nvrtc, "compiled", made.compiled)
    monkeypatch.setattr(nvrtc, "release", lambda: "13.0")
    monkeypatch.setattr(compiled, "capability", lambda: 90)
    compiled._folder.cache_clear()
    yield made
    compiled._folder.cache_clear()


def test_a_kernel_is_compiled_once_and_found_by_its_name_then(compiler: Compiler, tmp_path: Path) -> None:
    first, second = (compiled._code(PROGRAM, is_by_name=True) for _ in range(2))
    assert first == second
    assert not first.cubin
    assert compiler.sources == [PROGRAM.text(first.name)]
    path = tmp_path / f"{first.name}_{compiled.NO_CODE}"
    assert path.with_suffix(".ptx").read_bytes() == PROGRAM.text(first.name)[::-1].encode()
    assert path.with_suffix(".txt").read_text() == f"{first.name}\t{first.name}\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kernel_that_mlx_does_not_find_carries_its_code(compiler: Compiler) -> None:
    code = compiled._code(PROGRAM, is_by_name=False)
    assert code.cubin == PROGRAM.text(code.name)[::-1].encode()


@pytest.mark.parametrize("what", ["text", "GPU", "compiler"])
def test_code_for_another_text_or_gpu_or_of_another_compiler_is_another(
    what: str, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compiled._code(PROGRAM, is_by_name=True).name
    program = PROGRAM
    if what == "text":
        program = PROGRAM._replace(body="out[0] = x[0] + x[0];")
    elif what == "GPU":
        monkeypatch.setattr(compiled, "capability", lambda: 100)
    else:
        monkeypatch.setattr(nvrtc, "release", lambda: "13.1")
    assert compiled._code(program, is_by_name=True).name != before
    assert len(compiler.sources) == 2


@pytest.mark.parametrize("trouble", [nvrtc.CompilerMissing("no library"), nvrtc.CompilerError("no such GPU")])
def test_without_a_compiler_there_are_no_kernels(
    trouble: Exception, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(source: str, capability: int) -> bytes:
        raise trouble

    monkeypatch.setattr(nvrtc, "compiled", fail)
    compiled._compile.cache_clear()
    compiled._is_by_name.cache_clear()
    assert not compiled.works()
    compiled._compile.cache_clear()
    assert "kernels cannot be compiled" in caplog.text


def test_an_old_gpu_has_no_kernels(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "capability", lambda: 75)
    compiled._compile.cache_clear()
    assert not compiled.works()
    compiled._compile.cache_clear()
    assert not compiler.sources


def test_kernels_that_were_wrong_once_are_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_trusted", True)
    monkeypatch.setattr(compiled, "_compile", lambda: True)
    assert compiled.works()
    compiled.distrust()
    assert not compiled.works()
