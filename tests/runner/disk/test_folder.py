"""The folder of entries: private, bounded, and safe to share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.disk.folder import Draft, Folder, open_folder
from runner.errors import BadCacheFolder
from tests.parts.disk import entries

MODEL = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(tmp_path / "cache", 1000)


def begun(folder: Folder, size: int) -> Draft:
    draft = Draft(folder, MODEL)
    draft.begin(b"x" * (size - 4), size)
    return draft


def test_a_draft_that_is_being_written_is_not_swept_and_one_that_was_left_is(folder: Folder) -> None:
    living, left = begun(folder, 9), begun(folder, 9)
    left._close()  # as the system does when a process is gone
    folder.sweep()
    living.commit()
    assert [path.name for path in entries(folder.path)] == [living.name]
    assert folder.files()[0].size == 9


def test_a_draft_that_is_not_whole_is_no_entry(folder: Folder) -> None:
    draft = begun(folder, 9)
    assert folder.files() == []
    draft.discard()
    assert entries(folder.path) == []
    draft.discard()


def test_room_is_made_of_what_was_used_longest_ago(folder: Folder) -> None:
    names = []
    for number in range(4):
        draft = begun(folder, 250)
        draft.commit()
        os.utime(folder.path / draft.name, (number, number))
        names.append(draft.name)
    folder.used(names[0])
    folder.make_room(300)
    assert [file.name for file in folder.files()] == [names[3], names[0]]
    with pytest.raises(OSError, match="an entry of 1001 bytes, limit 1000"):
        folder.make_room(1001)
    assert len(folder.files()) == 2


def test_links_are_no_entries(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"1" * 999)
    (folder.path / f"{MODEL}-{MODEL}.safetensors").symlink_to(tmp_path / "mine")
    folder.make_room(1000)
    assert folder.files() == []
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o710])
def test_a_folder_that_others_may_look_into_is_refused(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(BadCacheFolder, match=f"mode {mode:o}"):
        open_folder(tmp_path, 1)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadCacheFolder, match="File exists"):
        open_folder(tmp_path / "file", 1)
    with pytest.raises(BadCacheFolder):
        open_folder(tmp_path / "file" / "below", 1)
