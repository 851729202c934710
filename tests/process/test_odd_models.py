"""Files of models that will not do, to one runner process that is told to load them: each is refused in one line,
in seconds, and the model that was there goes on. tests/process/test_broken_models.py starts runners with some.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.store.safetensors_header import make_header
from tests.parts import stores, tiny
from tests.parts.aftermath import Calm, refused, status
from tests.parts.processes import Running, hosted, linux_only
from tests.parts.streams import Request, post

pytestmark = linux_only
Damage = Callable[[Path], object]
WEIGHTS = "model.safetensors"
NAME = "model.norm.weight"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def pair(tiny_model: Path, store: Path) -> Iterator[tuple[Running, Calm]]:
    with hosted(tiny_model, {"OLLAMA_MODELS": str(store)}) as running:
        yield running, Calm.of(running)


@pytest.fixture
def running(pair: tuple[Running, Calm], tiny_model: Path) -> Iterator[Running]:
    yield pair[0]
    if status(pair[0])["model"] != tiny_model.name:
        assert post(pair[0].port, "/load", json.dumps({"model": str(tiny_model)}))[0] == 200
    pair[1].check(pair[0])


def weights(change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def cut(kept: int) -> Damage:
    return weights(lambda data: data[:kept])


def lone(**fields: Any) -> Damage:
    """A file of one tensor, with these fields instead of right ones."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields
    return with_header(json.dumps({NAME: entry}).encode(), b"\0" * 8)


def with_header(text: bytes, data: bytes = b"", stated: int | None = None) -> Damage:
    length = len(text) if stated is None else stated
    return weights(lambda _: length.to_bytes(8, "little") + text + data)


def config(**changes: Any) -> Damage:
    return lambda folder: (folder / "config.json").write_text(json.dumps(tiny.CONFIG | changes))


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        made = json.loads((folder / "tokenizer.json").read_text())
        change(made)
        (folder / "tokenizer.json").write_text(json.dumps(made))

    return damage


def fifo(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def linked(target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(target)

    return damage


def with_tensors(change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        import mlx.core as mx

        tensors: Any = mx.load(str(folder / WEIGHTS))
        change(tensors)
        mx.save_safetensors(str(folder / WEIGHTS), tensors)

    return damage


def as_integers(tensors: dict[str, Any]) -> None:
    import mlx.core as mx

    tensors[NAME] = tensors[NAME].astype(mx.int32)


BOMB = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
DAMAGES: dict[str, Damage] = {
    **{f"12 cut to {kept}": cut(kept) for kept in (0, 7, 8, 100, 5000)},
    **{
        f"13 a header of {stated}": with_header(b"{}", stated=stated)
        for stated in (0, 3, 2**32, 2**63, 2**64 - 1)
    },
    "13 no JSON": with_header(b"x" * 20),
    "13 an array": with_header(b"[]"),
    "13 nested": with_header(b'{"a":' * 2_000_000),
    "14 past the end": lone(shape=[4], data_offsets=[0, 16]),
    "14 reversed": lone(data_offsets=[8, 0]),
    "14 negative": lone(data_offsets=[-8, 0]),
    "14 a hole": lone(data_offsets=[4, 12]),
    "14 twice": with_header(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + b'"b":1}'),
    **{f"14 a dimension of {size}": lone(shape=[size]) for size in (-1, 2**32 + 2, 2.5, True, None)},
    "15 a length that wraps": lone(dtype="U8", shape=[-1], data_offsets=[0, 2**64 - 1]),
    "17 a pipe": fifo,
    "17 a device": linked("/dev/zero"),
    "17 a directory": linked("."),
    "17 a loop": linked(WEIGHTS),
    "19 missing": with_tensors(lambda tensors: tensors.pop(NAME)),
    "19 one more": with_tensors(lambda tensors: tensors.update(more=tensors[NAME])),
    "19 of another shape": with_tensors(lambda tensors: tensors.update({NAME: tensors[NAME][:5]})),
    "19 integers": with_tensors(as_integers),
    **{f"20 {name}": config(architectures=[name]) for name in ("Nothing", "../x", "os.path", "cache")},
    **{f"21 hidden_size {size!r}": config(hidden_size=size) for size in (-1, 0, "48", 2**62, 1e30)},
    "21 ten million layers": config(num_hidden_layers=10**7),
    "21 a list": lambda folder: (folder / "config.json").write_text("[]"),
    "22 cut": lambda folder: (folder / "tokenizer.json").write_text('{"model":'),
    "22 another model": tokenizer(lambda made: made["model"].update(type="Nothing")),
    "22 a bad expression": tokenizer(
        lambda made: made.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "("},
                "behavior": "Isolated",
                "invert": False,
            }
        )
    ),
    "23 a bomb": tokenizer(
        lambda made: made.update(normalizer={"type": "Sequence", "normalizers": [BOMB] * 3})
    ),
    "24 more tokens than rows": config(vocab_size=200),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_model_that_will_not_do_is_refused_in_one_line(running: Running, tmp_path: Path, name: str) -> None:
    """Rows 12 to 15, 17, 19 to 24; the number is the row's."""
    folder = tiny.write(tmp_path / "model")
    DAMAGES[name](folder)
    code, text = refused(running.port, "/load", {"model": str(folder)}, str(tmp_path))
    assert code in (400, 500)
    assert text
    lines = (Path("/proc") / str(running.pid) / "status").read_text().splitlines()
    assert next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) < 400 * 1024  # KiB


def test_code_that_a_config_names_is_never_looked_at(running: Running, tmp_path: Path) -> None:
    """Row 20, of a model that is sound otherwise."""
    folder = tiny.write(tmp_path / "model", model_file="model.py", auto_map={"AutoModel": "model.Model"})
    (folder / "model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with Request(running.port, {"model": str(folder)}, "/load") as request:
        assert request.response.status in (200, 400)
        request.response.read()
    assert not (tmp_path / "ran").exists()


def test_an_expression_that_explodes_is_an_answer_or_an_error_in_seconds(
    running: Running, tmp_path: Path
) -> None:
    """Row 23, the tokenizer's own."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    folder = tiny.write(tmp_path / "model")
    tokenizer(lambda made: made.update(pre_tokenizer=split))(folder)
    with Request(running.port, {"model": str(folder)}, "/load") as request:
        assert request.response.status == 200, request.response.read()
        request.response.read()
    with Request(running.port, b"a" * 60_000 + b"!", "/v1/tokenize") as request:
        assert request.response.status in (200, 500)
        request.response.read()
    with Request(running.port, {"prompt": "a" * 300 + "!", "options": {"num_predict": 2}}) as request:
        assert request.response.status in (200, 500)
        request.response.read()


DIGESTS = (
    "sha256:../../x",
    "sha256:abc",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 64 + "\n",
    "md5:" + "0" * 32,
    7,
)


@pytest.mark.parametrize("digest", DIGESTS, ids=str)
def test_what_is_no_digest_opens_nothing(running: Running, store: Path, digest: Any) -> None:
    """Row 25."""
    path = stores.manifest_path(store, "bad")
    path.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": stores.JSON, "name": "config.json", "digest": digest, "size": 1}
    path.write_text(json.dumps({"layers": [layer]}))
    code, text = refused(running.port, "/load", {"model": "bad"}, str(store))
    assert code == 500
    assert "invalid digest" in text


def test_a_blob_that_leads_out_of_the_store_is_refused(running: Running, store: Path, tmp_path: Path) -> None:
    """Row 25."""
    digest = "0" * 64
    (tmp_path / "secret").write_text("{}")
    (store / "blobs").mkdir(exist_ok=True)
    (store / f"blobs/sha256-{digest}").symlink_to(tmp_path / "secret")
    path = stores.manifest_path(store, "leads-out")
    path.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": stores.JSON, "name": "../config.json", "digest": f"sha256:{digest}", "size": 2}
    path.write_text(json.dumps({"layers": [layer]}))
    code, text = refused(running.port, "/load", {"model": "leads-out"}, str(store))
    assert (code, "invalid digest" in text) == (500, True)


def test_weights_of_more_names_than_any_model_has_are_refused(running: Running, tmp_path: Path) -> None:
    """Row 13, of an honest header."""
    folder = tiny.write(tmp_path / "model")
    (folder / WEIGHTS).write_bytes(make_header(((f"{n}", "F32", (0,)) for n in range(100_001)), {}))
    code, _ = refused(running.port, "/load", {"model": str(folder)}, str(tmp_path))
    assert code == 500
