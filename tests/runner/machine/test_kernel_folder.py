"""Compiled kernels lie where nobody else can put any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.machine import kernel_folder


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(kernel_folder.VARIABLE, "")  # so that it is what it was behind the test
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_folder_is_private_and_mlx_is_told(tmp_path: Path) -> None:
    path = kernel_folder.prepare()
    assert path.is_relative_to(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert os.environ[kernel_folder.VARIABLE] == str(path)


def test_the_same_folder_is_found_again() -> None:
    first = kernel_folder.prepare()
    os.environ[kernel_folder.VARIABLE] = ""
    assert kernel_folder.prepare() == first


def test_a_folder_that_the_user_chose_stays_and_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = tmp_path / "somewhere" / "else"
    monkeypatch.setenv(kernel_folder.VARIABLE, str(chosen))
    assert kernel_folder.prepare() == chosen
    assert chosen.is_dir()


def test_a_chosen_folder_that_cannot_be_made_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv(kernel_folder.VARIABLE, str(tmp_path / "a file" / "kernels"))
    path = kernel_folder.prepare()
    assert path.is_dir()
    assert os.environ[kernel_folder.VARIABLE] == str(path)
    assert "Kernels are compiled at every start" in caplog.text
    path.rmdir()


def test_a_folder_where_others_may_write_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    first = kernel_folder.prepare()
    first.chmod(0o777)
    os.environ[kernel_folder.VARIABLE] = ""
    second = kernel_folder.prepare()
    assert second != first
    assert second.stat().st_mode & 0o777 == 0o700
    assert "Kernels are compiled at every start" in caplog.text
    second.rmdir()
