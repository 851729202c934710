"""The model store: what an import writes the runner reads, and nothing that a manifest claims is believed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles, LoadError, ModelNotFound, UnsupportedModel
from runner.importing.importer import import_directory, size_text
from runner.store import names
from runner.store.ollama import LICENSE
from runner.store.resolve import open_model
from tests.parts import refusals, tiny
from tests.parts.models import loaded, logits
from tests.parts.stores import blob, bring_in, host_config, manifest, manifest_path, model_name, quiet


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one model, `tiny`."""
    root = tmp_path / "store"
    bring_in(tiny.write(tmp_path / "tiny"), root, template="{{ .Prompt }}")
    return root


def edit_manifest(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edited = manifest(store)
    change(edited)
    manifest_path(store).write_text(json.dumps(edited))


def refusal(store: Path, kind: type[LoadError] = BadModelFiles) -> str:
    return refusals.of_model("tiny:latest", kind, store)


@pytest.mark.parametrize(
    ("text", "path", "short"),
    [
        ("demo", "registry.ollama.ai/library/demo/latest", "demo:latest"),
        ("demo:7b", "registry.ollama.ai/library/demo/7b", "demo:7b"),
        ("me/demo:7b", "registry.ollama.ai/me/demo/7b", "me/demo:7b"),
        ("here/me/demo:7b", "here/me/demo/7b", "here/me/demo:7b"),
        ("here:5000/me/demo", "here:5000/me/demo/latest", "here:5000/me/demo:latest"),
    ],
)
def test_a_name_is_a_path_and_has_a_shortest_spelling(text: str, path: str, short: str) -> None:
    assert str(model_name(text).path) == path
    assert str(model_name(text)) == short


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "../x",
        "..",
        "a/../b",
        "a/b/c/d",
        "/a",
        "a/",
        ".a",
        "-a",
        "a b",
        "a\n",
        "a:t\n",
        "a" * 81,
        "n.s/a",
        "a:../../x",
        "a\x00",
        "é",
    ],
)
def test_what_is_no_name_never_becomes_a_path(text: str) -> None:
    assert names.parse(text) is None


def test_an_imported_model_gives_the_logits_of_its_directory(store: Path, tmp_path: Path) -> None:
    here, there = loaded("tiny:latest", store), loaded(tmp_path / "tiny")
    assert here.name == "tiny:latest"
    assert here.tokenizer.eos_ids == there.tokenizer.eos_ids
    assert mx.array_equal(logits(here.model, [1, 2, 3]), logits(there.model, [1, 2, 3]))


def test_an_import_has_what_a_host_looks_for(store: Path) -> None:
    config = host_config(store)
    assert config["model_format"] == "safetensors"
    assert config["capabilities"] == ["completion"]
    kinds = [layer["mediaType"].rsplit(".", 1)[-1] for layer in manifest(store)["layers"]]
    assert kinds.count("tensor") == 20
    assert kinds.count("json") == 4
    assert kinds.count("template") == 1


def test_every_blob_is_named_by_its_bytes_and_is_as_long_as_the_manifest_says(store: Path) -> None:
    for layer in [manifest(store)["config"], *manifest(store)["layers"]]:
        data = blob(store, layer).read_bytes()
        assert hashlib.sha256(data).hexdigest() == layer["digest"].removeprefix("sha256:")
        assert len(data) == layer["size"]


def test_an_import_that_fails_leaves_no_manifest_and_no_temporary_file(tmp_path: Path) -> None:
    folder, root = tiny.write(tmp_path / "tiny"), tmp_path / "store"

    def interrupt(done: int, total: int, tensor: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_directory(folder, model_name("tiny"), root, None, interrupt)
    assert not (root / "manifests").exists()
    assert all(path.name.startswith("sha256-") for path in (root / "blobs").iterdir())


def test_only_floats_and_what_is_quantized_can_be_imported(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    mx.save_safetensors(str(folder / "model.safetensors"), {"a": mx.zeros((2,), mx.uint32)})
    with pytest.raises(UnsupportedModel, match="tensor a is U32"):
        import_directory(folder, model_name("tiny"), tmp_path / "store", None, quiet)


def test_an_unknown_name_is_not_found(store: Path) -> None:
    with pytest.raises(ModelNotFound, match="'other:latest' not found"):
        open_model("other:latest", store)


def test_a_store_that_is_not_ours_to_read_has_no_models(tmp_path: Path) -> None:
    (tmp_path / "manifests").symlink_to("manifests")  # a loop: whoever follows it gets an error
    assert open_model("demo", tmp_path).name == "demo"


def test_the_demo_needs_no_store_and_a_stored_demo_comes_first(store: Path, tmp_path: Path) -> None:
    assert open_model("demo:latest", store).name == "demo"
    import_directory(tmp_path / "tiny", model_name("demo"), store, None, quiet)
    assert open_model("demo", store).name == "demo:latest"


def digest_of(store: Path, value: Any) -> str:
    def change(edited: dict[str, Any]) -> None:
        edited["layers"][0]["digest"] = value

    edit_manifest(store, change)
    return refusal(store)


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../etc/passwd",
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "md5:0",
        5,
        "sha256:" + "a" * 65,
        "/etc/passwd",
    ],
)
def test_what_is_no_digest_opens_nothing(store: Path, digest: Any) -> None:
    assert "invalid digest" in digest_of(store, digest)


def test_a_missing_and_a_truncated_blob_are_each_one_line_with_the_layers_name(store: Path) -> None:
    layer = manifest(store)["layers"][0]
    path = blob(store, layer)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(store) == (
        f"layer {layer['name']}: {layer['size'] - 1} bytes, the manifest says {layer['size']}: is it all there?"
    )
    path.unlink()
    assert refusal(store) == f"layer {layer['name']}: no such file"


def test_a_blob_that_leads_out_of_the_store_is_refused(store: Path, tmp_path: Path) -> None:
    layer = manifest(store)["layers"][0]
    path = blob(store, layer)
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    assert "invalid digest" in refusal(store)
    path.unlink()
    path.symlink_to(path)
    assert refusal(store) == f"layer {layer['name']}: no such file"
    path.unlink()
    os.mkfifo(path)
    assert refusal(store) == f"layer {layer['name']}: not a regular file"
    path.unlink()
    path.mkdir()
    assert refusal(store) == f"layer {layer['name']}: not a regular file"


def test_a_licence_that_leads_out_of_the_store_is_not_read(store: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from elsewhere")
    digest = "sha256:" + "5" * 64
    layer = {"mediaType": LICENSE, "digest": digest, "size": 14}
    blob(store, layer).symlink_to(tmp_path / "secret")
    edit_manifest(store, lambda edited: edited["layers"].append(layer))
    assert open_model("tiny", store).licence is None


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/../../b.json", "\u0000"])
def test_the_name_of_a_layer_never_becomes_a_path(store: Path, name: str) -> None:
    """It is a label: this one is for nothing that we look for."""

    def change(edited: dict[str, Any]) -> None:
        next(layer for layer in edited["layers"] if layer.get("name") == "tokenizer.json")["name"] = name

    edit_manifest(store, change)
    assert refusal(store) == "manifest: no layer tokenizer.json"


def test_a_model_without_tensor_layers_is_another_format(store: Path) -> None:
    edit_manifest(store, lambda edited: edited.update(layers=[]))
    assert "no safetensors layers" in refusal(store, UnsupportedModel)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"layers": 5}', '{"layers": [5]}'])
def test_a_broken_manifest_is_one_line(store: Path, text: str) -> None:
    manifest_path(store).write_text(text)
    assert "manifest" in refusal(store)


def test_sizes_are_told_as_people_write_them() -> None:
    assert [size_text(n) for n in (999, 5_475_584, 1_235_814_400)] == ["999", "5.5M", "1.2B"]


def test_the_command_imports_and_tells_what(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    command = [sys.executable, "-m", "api", "import", str(folder), "--name", "me/tiny:x"]
    environment = os.environ | {"OLLAMA_MODELS": str(tmp_path / "store")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("imported me/tiny:x: 20 tensors, ")
    assert (tmp_path / "store/manifests/registry.ollama.ai/me/tiny/x").is_file()
    (folder / "config.json").unlink()
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (4, "Error: config.json: no such file\n")
