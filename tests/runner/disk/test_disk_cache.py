"""What one process held, the next one has, exactly; and nothing that is wrong on the disk is more than a miss."""

from __future__ import annotations

import logging
import os
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from runner.loading.loaded_model import LoadedModel
from tests.parts.disk import Process, entries
from tests.parts.fakes import RotatingModel, ScriptedModel, loaded
from tests.parts.models import forward, logits
from tests.parts.rows import KINDS, fresh

TOLERANCE = 1e-4
PROMPT = "what one process held, the next one has, and a third; " * 2


@pytest.fixture
def plain() -> LoadedModel:
    return loaded(ScriptedModel([65] * 400, 0))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_restart_logits_are_those_of_a_fresh_computation(kind: str, tmp_path: Path) -> None:
    """For the same prompt, its next turn, and edits at many places."""
    first = Process(fresh(kind, 1), tmp_path)
    first.ask(PROMPT, 20)
    first.save()
    model = first.loaded.model
    reached = 0
    for prompt in (PROMPT, PROMPT + "more", *(PROMPT[:keep] + "other" for keep in (100, 70, 33, 12))):
        tokens = first.loaded.tokenizer.encode(prompt)
        second = Process(first.loaded, tmp_path)
        second.disk.restore(tokens, len(tokens))
        match = second.slots.match(tokens)
        second.slots.take(match.slot)
        memory = second.slots.begin(match.slot, match.matched, len(tokens))
        seen = model.logits(forward(model, memory, tokens[match.matched :]))[0]
        expected = logits(model, tokens)[match.matched :]
        assert mx.allclose(seen, expected, rtol=0, atol=TOLERANCE), (prompt, match)
        reached += match.matched > 0
    assert reached >= 2


def test_an_entry_goes_where_the_next_one_has_nearly_all_of_it(plain: LoadedModel, tmp_path: Path) -> None:
    process = Process(plain, tmp_path)
    process.ask(PROMPT)
    process.save()
    process.ask(PROMPT + "and a next turn")
    process.save()
    assert process.disk.entries == len(entries(tmp_path)) == 1
    process.ask("another conversation, of which no entry has anything")
    process.save()
    assert process.disk.entries == 2
    assert process.disk.nbytes == sum(path.stat().st_size for path in entries(tmp_path))
    assert Process(plain, tmp_path).ask(PROMPT + "and a next turn").cached_tokens > len(PROMPT)


def test_what_the_disk_has_is_not_saved_again_and_what_memory_has_is_not_restored(
    plain: LoadedModel, tmp_path: Path
) -> None:
    process = Process(plain, tmp_path)
    process.ask(PROMPT)
    process.save()
    (entry,) = entries(tmp_path)
    process.ask(PROMPT)
    process.save()
    assert entries(tmp_path) == [entry]
    assert process.disk.hits == 0


def test_only_what_is_notable_is_saved_and_restored(plain: LoadedModel, tmp_path: Path) -> None:
    process = Process(plain, tmp_path, notable=64)
    process.ask("a" * 60, 1)
    process.save()
    assert entries(tmp_path) == []
    process.ask("a" * 60 + "b" * 60, 1)
    process.save()
    assert len(entries(tmp_path)) == 1
    assert Process(plain, tmp_path, notable=64).ask("a" * 63).cached_tokens == 0
    assert Process(plain, tmp_path, notable=64).ask("a" * 60 + "b" * 9).cached_tokens == 68


def test_all_slots_are_saved_and_each_is_found_again(plain: LoadedModel, tmp_path: Path) -> None:
    process = Process(plain, tmp_path, slots=3)
    prompts = [letter * 50 for letter in "abc"]
    for prompt in prompts:
        process.ask(prompt)
    process.save()
    later = Process(plain, tmp_path)
    assert [later.ask(prompt).cached_tokens for prompt in prompts] == [49] * 3
    assert later.disk.hits == 3


def test_those_used_longest_ago_go_first(plain: LoadedModel, tmp_path: Path) -> None:
    process = Process(plain, tmp_path)
    process.ask("a" * 50)
    process.save()
    limit = 3 * process.disk.nbytes
    process = Process(plain, tmp_path, limit=limit)
    for number, letter in enumerate("bc"):
        process.ask(letter * 50)
        process.save()
        for path in entries(tmp_path):  # each is older than it was
            before = path.stat().st_mtime_ns - 10**9
            os.utime(path, ns=(before, before))
        assert process.disk.entries == number + 2
    process.ask("a" * 50)
    assert process.disk.hits == 1
    process.ask("d" * 50)
    process.save()
    assert process.disk.nbytes <= limit
    later = Process(plain, tmp_path)
    assert [later.ask(letter * 50).cached_tokens for letter in "acd"] == [49] * 3
    assert later.ask("b" * 50).cached_tokens == 0


def test_a_request_that_comes_ends_what_is_being_saved(plain: LoadedModel, tmp_path: Path) -> None:
    process = Process(plain, tmp_path)
    process.ask(PROMPT)
    process.disk.step()
    assert process.disk.is_saving
    process.disk.abandon()
    assert not process.disk.is_saving
    process.ask(PROMPT + "more")
    process.save()
    assert [path.suffix for path in entries(tmp_path)] == [".safetensors"]
    assert Process(plain, tmp_path).ask(PROMPT + "more").cached_tokens == len(PROMPT + "more") - 1


def test_another_model_s_entries_are_left_alone(plain: LoadedModel, tmp_path: Path) -> None:
    mine = Process(plain, tmp_path)
    mine.ask(PROMPT)
    mine.save()
    other = Process(plain, tmp_path, identity="f" * 64)
    assert other.ask(PROMPT).cached_tokens == 0
    other.save()
    other.disk.empty()
    assert Process(plain, tmp_path).ask(PROMPT).cached_tokens > 0


def test_emptied_it_has_nothing_left(plain: LoadedModel, tmp_path: Path) -> None:
    process = Process(plain, tmp_path)
    process.ask(PROMPT)
    process.save()
    process.disk.empty()
    assert (process.disk.entries, entries(tmp_path)) == (0, [])


def test_files_and_folder_are_private_whatever_the_mask(plain: LoadedModel, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        process = Process(plain, tmp_path / "made")
        process.ask(PROMPT)
        process.save()
    finally:
        os.umask(before)
    (entry,) = entries(tmp_path / "made")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


# What may be wrong.


def flipped(at: float) -> Callable[[bytes], bytes]:
    """A bit, so far into the file."""

    def damage(data: bytes) -> bytes:
        place = int(at * (len(data) - 1))
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "a byte short": lambda data: data[:-1],
    "a byte long": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"something else of the same name",
    "its data zeros": lambda data: data[:1000] + bytes(len(data) - 1000),
    "another model's": lambda data: data.replace(
        b"0123456789abcdef" * 4, b"0123456789abcdef" * 3 + b"f" * 16
    ),
    "another type": lambda data: data.replace(b'"F32"', b'"U32"', 1),
    **{f"a bit at {at}": flipped(at) for at in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
}


@pytest.mark.parametrize("when", ["before the load", "behind it"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_a_warning_and_a_miss(
    damage: str, when: str, plain: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(plain, tmp_path)
    process.ask(PROMPT)
    process.save()
    (entry,) = entries(tmp_path)
    data = DAMAGES[damage](entry.read_bytes())
    if when == "before the load":
        entry.write_bytes(data)
        later = Process(plain, tmp_path)
    else:
        later = Process(plain, tmp_path)
        entry.write_bytes(data)
    assert later.ask(PROMPT).cached_tokens == 0
    assert later.ask(PROMPT).cached_tokens > 0, "from its slot"
    assert warnings(caplog) == ["Cache entry dropped"]
    assert entries(tmp_path) == []
    later.save()
    assert Process(plain, tmp_path).ask(PROMPT).cached_tokens > 0, "saved anew"


def test_an_entry_that_another_process_removed_is_a_miss_without_a_word(
    plain: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(plain, tmp_path)
    process.ask(PROMPT)
    process.save()
    later = Process(plain, tmp_path)
    entries(tmp_path)[0].unlink()
    assert later.ask(PROMPT).cached_tokens == 0
    assert later.disk.entries == 0
    assert warnings(caplog) == []


def test_files_of_other_names_are_nobody_s(plain: LoadedModel, tmp_path: Path) -> None:
    strange = ["notes.txt", "model.safetensors", f"{'0' * 16}-x.safetensors", ".draft"]
    for name in strange:
        (tmp_path / name).write_bytes(b"mine")
    tmp_path.chmod(0o700)
    process = Process(plain, tmp_path, limit=30_000)
    process.ask(PROMPT)
    process.save()
    process.disk.empty()
    assert sorted(strange) == [path.name for path in entries(tmp_path)]


def test_a_disk_that_takes_no_more_costs_one_warning_until_it_does_again(
    plain: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The system refuses to write past a size, in the middle of a file."""
    process = Process(plain, tmp_path)
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for prompt in (PROMPT, PROMPT, "b" * 80):
            process.ask(prompt)
            process.save()
            assert entries(tmp_path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert warnings(caplog) == ["Cache entry not saved"]
    process.ask("c" * 80)
    process.save()
    assert len(entries(tmp_path)) == 1


def test_an_entry_that_is_larger_than_the_limit_is_not_saved_and_nothing_goes_for_it(
    plain: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(plain, tmp_path)
    process.ask("a" * 20)
    process.save()
    process = Process(plain, tmp_path, limit=process.disk.nbytes)
    process.ask("b" * 300)
    process.save()
    assert Process(plain, tmp_path).ask("a" * 20).cached_tokens == 19
    assert warnings(caplog) == ["Cache entry not saved"]


def test_what_is_restored_has_its_checkpoints(tmp_path: Path) -> None:
    """Not only the end of a prompt: an edit in its middle starts from there, in a model with a window."""
    model = loaded(RotatingModel([65] * 400, 0), chunk=16)
    process = Process(model, tmp_path)
    process.slots.bound = process.slots.bound._replace(share=9.0, apart=16)
    process.ask("a" * 200, 40)
    process.save()
    assert Process(model, tmp_path).ask("a" * 100 + "b" * 50).cached_tokens == 96
    later = Process(model, tmp_path)
    assert later.ask("a" * 70 + "b" * 50).cached_tokens == 64
    assert later.ask("a" * 40 + "b" * 50).cached_tokens >= 32, "from the slot, which has them too"
    assert later.disk.hits == 1
