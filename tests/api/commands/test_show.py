"""`mlx-runner show`: facts from descriptions and headers, of models that we run and of others."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from api.commands import showing
from api.process.lifecycle import MODEL
from runner.loading.description import describe
from runner.store.resolve import DEMO_FOLDER, open_model
from tests.parts import tiny
from tests.parts.checkpoints import EXPERTS, checkpoint, floats
from tests.parts.processes import COMMAND
from tests.parts.quantized import Q4, in_mlx_spelling, mixed
from tests.parts.stores import blob, bring_in, manifest


def shown(
    model: str | Path, capsys: pytest.CaptureFixture[str], store: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    with pytest.raises(SystemExit) as caught:
        showing.main([str(model)])
    out, err = capsys.readouterr()
    assert caught.value.code == (MODEL if err else 0)
    return out + err


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda model: shown(model, capsys, tmp_path, monkeypatch)


def test_the_demo_in_full(show: Any) -> None:
    assert show("demo") == (
        "demo\n"
        "  architecture    LlamaForCausalLM\n"
        "  parameters      5.7M (5,672,192)\n"
        "  quantization    none: BF16\n"
        "  context length  8,192\n"
        "  layers          6\n"
        "  hidden size     256\n"
        "  heads           8, 2 of keys and values\n"
        "  vocabulary      4,096\n"
        "  chat template   Jinja\n"
        "  licence         not given\n"
        "  weights on disk 11.3 MB\n"
    )


def test_a_model_in_the_store_tells_its_mixed_bits_and_its_template(show: Any, tmp_path: Path) -> None:
    bring_in(DEMO_FOLDER, tmp_path, "int4")
    text = show("tiny")
    assert text.startswith("tiny:latest\n")
    assert "parameters      5.7M (5,672,192)\n" in text
    assert "quantization    int4 (64), 19 of 43 matrices int8 (64); not quantized: 13 BF16\n" in text
    assert "chat template   Jinja\n" in text
    bring_in(DEMO_FOLDER, tmp_path, template="{{ .Prompt }}")
    assert "chat template   Go and Jinja\n" in show("tiny")


def test_a_quantized_directory_is_counted_by_what_it_stands_for(tmp_path: Path) -> None:
    weights = floats(tie_word_embeddings=False)
    tensors = in_mlx_spelling(weights, lambda path: mixed(path) if "layers" in path else Q4)
    section: dict[str, Any] = {"group_size": 64, "bits": 4}
    for layer in range(2):
        for name, bits, size in (("q", 8, 64), ("k", 3, 32), ("v", 6, 128)):
            section[f"model.layers.{layer}.self_attn.{name}_proj"] = {"group_size": size, "bits": bits}
    it = describe(open_model(str(checkpoint(tmp_path / "tiny", tensors, quantization=section))))
    assert it.parameters == sum(array.size for array in weights.values())
    assert it.matrices == Counter(
        {"int4 (64)": 2, "int8 (64)": 2, "int3 (32)": 2, "int6 (128)": 2}
        | {"nvfp4 (16)": 2, "mxfp4 (32)": 2, "mxfp8 (32)": 2}
    )
    assert it.floats == Counter({"F32": 7})  # five norms, two o_proj


def test_what_is_not_written_down_is_unknown(show: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", in_mlx_spelling(floats(), lambda path: Q4))
    assert "quantization    unknown; not quantized: 5 F32\n" in show(folder)


def test_experts_are_told(show: Any, tmp_path: Path) -> None:
    assert "experts         2 of 4 for each token\n" in show(
        checkpoint(tmp_path / "tiny", floats(**EXPERTS), **EXPERTS)
    )


def test_a_reader_that_leaves_is_no_trouble() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([COMMAND, "show", "demo"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_architecture_of_others_is_shown_too(show: Any, tmp_path: Path) -> None:
    """With the text part of a multimodal config; nothing but the headers is known of it."""
    folder = tiny.write(tmp_path / "strange")
    text = {"hidden_size": 77, "num_hidden_layers": 5, "max_position_embeddings": 12345}
    config = {"architectures": ["StrangeForCausalLM"], "text_config": text, "hidden_size": 3}
    (folder / "config.json").write_text(json.dumps(config))
    said = show(folder)
    assert "architecture    StrangeForCausalLM, not supported by this runner\n" in said
    assert "context length  12,345\n" in said
    assert "hidden size     77\n" in said
    assert "heads" not in said


def test_a_model_of_ours_that_cannot_be_loaded_says_why(show: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG | {"hidden_act": "strange"}))
    assert "                  this runner cannot load it: config.json: hidden_act" in show(folder)
    (folder / "config.json").write_text('{"model_type": "nameless"}')
    assert "architecture    nameless, not supported by this runner\n" in show(folder)


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.txt", "LICENSE.md"])
def test_the_licence_is_its_first_line(show: Any, tmp_path: Path, name: str) -> None:
    folder = tiny.write(tmp_path / "tiny")
    (folder / name).write_text("\n\n   Apache License  \n Version 2.0\n")
    assert "licence         Apache License\n" in show(folder)
    bring_in(folder, tmp_path)
    assert "licence         Apache License\n" in show("tiny")


def test_a_licence_may_be_a_word_in_the_config_and_a_template_a_file(show: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny", license="mit")
    assert "licence         mit\n" in show(folder)
    assert "chat template   none\n" in show(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat template   Jinja\n" in show(folder)


def test_a_broken_licence_blob_spoils_nothing_else(show: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    (folder / "LICENSE").write_text("MIT")
    bring_in(folder, tmp_path)
    licence = next(layer for layer in manifest(tmp_path)["layers"] if "license" in layer["mediaType"])
    blob(tmp_path, licence).unlink()
    assert "licence         its text: no such file\n" in show("tiny")


def test_nothing_from_a_file_reaches_the_terminal_as_a_command(show: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny", license="\x1b[2Jmit")
    assert "licence         \ufffd[2Jmit\n" in show(folder)


@pytest.mark.usefixtures("nothing_left_over")
def test_no_weights_are_read(big_model: Path) -> None:
    mx.reset_peak_memory()
    assert describe(open_model(str(big_model))).parameters > 2**27
    assert mx.get_peak_memory() < 1_000_000 + mx.get_active_memory()


def test_what_is_not_there_or_broken_is_one_line(show: Any, tmp_path: Path) -> None:
    assert show("nowhere").startswith("Error: model 'nowhere' not found: ")
    folder = tiny.write(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    assert show(folder) == (
        "Error: model.safetensors: not a valid safetensors file: the header is not a JSON object\n"
    )
    (folder / "config.json").unlink()
    assert show(folder) == "Error: config.json: no such file\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        showing.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("mlx-runner show demo", "OLLAMA_MODELS", "no weights"):
        assert word in text
