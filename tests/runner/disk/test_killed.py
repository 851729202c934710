"""A process that is killed while it saves leaves nothing that is wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parts.disk import Process, entries
from tests.parts.fakes import ScriptedModel, held, loaded
from tests.parts.processes import EXIT_S

# Saves for ever, each time another prompt; says when it begins.
SAVER = """
import sys
from pathlib import Path
from tests.parts.disk import Process
from tests.parts.fakes import ScriptedModel, loaded
process = Process(loaded(ScriptedModel([65] * 400, 0)), Path(sys.argv[1]), limit=200_000)
number = int(sys.argv[2])
while True:
    process.ask(f"{number} " * 80)
    print("saving", flush=True)
    process.save()
    number += 1
"""
ROOT = Path(__file__).parent.parent.parent.parent


def killed_while_it_saves(folder: Path, times: int, chance: random.Random) -> int:
    """How often a draft was left."""
    drafts = 0
    for number in range(times):
        command = [sys.executable, "-c", SAVER, str(folder), str(1000 * number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as saver:
            assert saver.stdout is not None
            for _ in range(chance.randint(1, 4)):
                assert saver.stdout.readline() == b"saving\n"
            time.sleep(chance.random() * 0.004)  # anywhere in a save, which takes about as long
            saver.kill()
            saver.wait(EXIT_S)
        drafts += any(path.suffix == ".draft" for path in entries(folder))
        starts_and_finds_no_wrong_entry(folder)
    return drafts


def starts_and_finds_no_wrong_entry(folder: Path) -> None:
    """Each entry's keys are its tokens, and nothing else is there."""
    process = Process(loaded(ScriptedModel([65] * 400, 0)), folder)
    assert process.disk.entries == len(entries(folder))
    for entry in list(process.disk._entries.values()):
        tokens = list(memoryview(entry.tokens).cast("I"))
        process.disk.restore([*tokens, 0], len(tokens) + 1)
        assert process.slots.tokens(0) == tokens
        assert held(process.slots.memory(0).storages[0]) == tokens
        assert os.stat(folder / entry.name).st_mode & 0o777 == 0o600


def test_killed_while_it_saves_it_leaves_only_whole_entries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_while_it_saves(tmp_path, 3, random.Random(5))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.slow
def test_so_it_is_a_hundred_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert killed_while_it_saves(tmp_path, 100, random.Random(6)) > 10
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
