"""Our reading of a header against the reference implementation's, and against MLX."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runner.errors import BadModelFiles
from runner.store.header_text import MAX_HEADER_BYTES, MAX_MEMBERS
from runner.store.safetensors_header import BITS, MAX_DIMENSION, make_header, read_header

GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "U8", "shape": [], "data_offsets": [32, 33]},
}
DATA = bytes(33)


def write(path: Path, header: Any, data: bytes = DATA) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def ours(path: Path) -> bool:
    try:
        read_header(path, path.name)
    except BadModelFiles:
        return False
    return True


def reference(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy"):
            return True
    except SafetensorError:
        return False


def test_a_good_file_is_accepted_by_both(tmp_path: Path) -> None:
    path = write(tmp_path / "x", GOOD | {"__metadata__": {"format": "pt"}})
    assert ours(path)
    assert reference(path)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{" * 5, "not a valid safetensors file"),
        (b'{"a": {}, "a": {}}', "there twice"),
        (b'{"a": {"dtype": "U8", "dtype": "U8"}}', "there twice"),
        ({"a": 1}, "needs exactly"),
        ({"a": {}}, "needs exactly"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "needs exactly"),
        ({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 33]}}, "unknown dtype"),
        ({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 2**64 - 1]}}, "no sizes"),
        ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, "no sizes"),
        ({"a": {"dtype": "U8", "shape": [33.0], "data_offsets": [0, 33]}}, "no sizes"),
        ({"a": {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}}, "33 bytes of data"),
        ({"a": {"dtype": "U8", "shape": [32], "data_offsets": [1, 33]}}, "begins at 1"),
        ({"a": {"dtype": "U8", "shape": [33], "data_offsets": [33, 0]}}, "needs 33 bytes"),
        ({"a": {"dtype": "U8", "shape": [0, 2**31], "data_offsets": [0, 0]}}, f"above {MAX_DIMENSION}"),
        ({"a": {"dtype": "U8", "shape": [1] * 9, "data_offsets": [0, 1]}}, "9 dimensions, limit 8"),
        ({"a": {"dtype": "U8", "shape": [2] * 100_000, "data_offsets": [0, 1]}}, "1000 characters"),
        ({"a": {"dtype": "U8", "shape": [[]], "data_offsets": [0, 1]}}, "no sizes"),
        ({"a": {"dtype": {}, "shape": [], "data_offsets": [0, 1]}}, "not a valid safetensors file"),
        (b'{"a": ' + b"[" * 1_000_000, "not a valid safetensors file"),
        (b'{"a": [' + b"0," * 1_000_000 + b"0]}", "begins no value"),
        (b'{"__metadata__": {"a": "b", "a": "b"}}', "there twice"),
        (b'{"__metadata__": {}, "__metadata__": {}}', "there twice"),
        (b'{"__metadata__": {"a": "b"', "expected ,"),
        (b"{} x", "ends at character 3 of 4"),
        ({"__metadata__": {"a": 1}}, "expected a string"),
        ({"__metadata__": []}, "expected {"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_named(tmp_path: Path, header: Any, what: str) -> None:
    with pytest.raises(BadModelFiles, match=what):
        read_header(write(tmp_path / "x", header), "x")


@pytest.mark.parametrize("length", [0, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused_at_once(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert not ours(path)


def test_a_file_of_more_tensors_than_any_model_has_is_refused(tmp_path: Path) -> None:
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    path = write(tmp_path / "x", dict.fromkeys(map(str, range(MAX_MEMBERS + 1)), empty), b"")
    with pytest.raises(BadModelFiles, match=f"more than {MAX_MEMBERS} names"):
        read_header(path, "x")


def test_a_header_longer_than_any_model_has_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
        file.truncate(MAX_HEADER_BYTES + 9)
    with pytest.raises(BadModelFiles, match=f"a header of {MAX_HEADER_BYTES + 1} bytes"):
        read_header(path, "x")


@pytest.mark.parametrize("metadata", [None, {}, {"a": "}{", 'b"\\': "\n\u00e9"}])
def test_metadata_may_be_any_strings(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    for header in ({"__metadata__": metadata, **GOOD}, {**GOOD, "__metadata__": metadata}):
        path = write(tmp_path / "x", json.dumps(header, indent=2).encode())
        assert read_header(path, "x").metadata == (metadata or {})


numbers = st.sampled_from(
    [0, 1, 2, 4, 24, 32, 33, 34, -1, 2**31, 2**32 + 4, 2**63, 2**64 - 1, 1.0, 1.5, True, "1", None]
)
changes = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["shape", "data_offsets", "dtype"]),
    st.integers(0, 2),
    st.one_of(numbers, st.sampled_from(["F32", "U8", "I64", "", "f32"])),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.lists(changes, max_size=3), st.integers(-2, 2))
def test_we_accept_nothing_that_the_reference_refuses(
    tmp_path: Path, edits: list[tuple[str, str, int, Any]], tail: int
) -> None:
    header = json.loads(json.dumps(GOOD))
    for name, field, index, value in edits:
        current = header[name][field]
        if isinstance(current, list) and current:
            current[index % len(current)] = value
        else:
            header[name][field] = value
    path = write(tmp_path / "x", header, bytes(max(0, len(DATA) + tail)))
    if ours(path):
        assert reference(path)
    elif reference(path):
        # The one rule of ours: MLX's shapes have 32 bits.
        assert any(d > MAX_DIMENSION for entry in header.values() for d in entry["shape"])


# Writing.

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
ascii_names = st.text(st.characters(max_codepoint=126), min_size=1).filter(
    lambda name: name != "__metadata__"
)


@given(st.dictionaries(ascii_names, shapes), st.dictionaries(ascii_names, ascii_names, max_size=1))
def test_a_header_is_byte_for_byte_the_references(
    tensors: dict[str, tuple[int, ...]], metadata: dict[str, str]
) -> None:
    """Of one type, whose tensors the reference sorts by name; and with one entry of metadata at most, since it has
    several in any order.
    """
    theirs = save({name: np.zeros(shape, np.float16) for name, shape in tensors.items()}, metadata or None)
    ours = make_header([(name, "F16", tensors[name]) for name in sorted(tensors)], metadata)
    assert theirs.startswith(ours)
    assert len(theirs) == len(ours) + sum(2 * int(np.prod(shape)) for shape in tensors.values())


entries = st.tuples(st.text(), st.sampled_from(sorted(BITS)), shapes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries, unique_by=lambda entry: entry[0]), st.dictionaries(st.text(), st.text()))
def test_what_is_written_is_read_again(
    tmp_path: Path, tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    tensors = [entry for entry in tensors if entry[0] != "__metadata__"]
    head = make_header(tensors, metadata)
    sizes = [int(np.prod(shape)) * BITS[dtype] // 8 for _, dtype, shape in tensors]
    (tmp_path / "x").write_bytes(head + bytes(sum(sizes)))
    found = read_header(tmp_path / "x", "x")
    assert found.metadata == metadata
    written = {name: (dtype, shape) for name, dtype, shape in tensors}
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in found.tensors} == written
    assert reference(tmp_path / "x")
