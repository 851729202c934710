"""Bringing a model in: what is right loads, what is wrong is one line that names it."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles, BadRequest, ModelNotFound, UnsupportedModel
from runner.generation.alone import complete
from runner.loading.loader import load
from runner.store.files import MAX_OBJECT_CHARS
from runner.store.resolve import open_model
from runner.types import Done, GenerateRequest
from tests.parts import refusals, tiny
from tests.parts.models import Conversation, loaded, logits


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, weights: dict[str, mx.array]) -> None:
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "tiny")


def test_a_whole_directory_loads_with_its_name_and_limits(folder: Path) -> None:
    model = loaded(folder)
    assert (model.name, model.architecture, model.context_length) == ("tiny", "LlamaForCausalLM", 512)


def test_progress_rises_to_one(folder: Path) -> None:
    seen: list[float] = []
    load(open_model(str(folder)), seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_shards_give_the_same_model_as_one_file(folder: Path, tmp_path: Path) -> None:
    split = tiny.write(tmp_path / "split")
    (split / "model.safetensors").unlink()
    weights = list(tiny.weights(tiny.CONFIG).items())
    parts = {"model-1-of-2.safetensors": dict(weights[:9]), "model-2-of-2.safetensors": dict(weights[9:])}
    for name, part in parts.items():
        mx.save_safetensors(str(split / name), part)
    weight_map = {key: name for name, part in parts.items() for key in part}
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    one, many = loaded(folder).model, loaded(split).model
    assert mx.array_equal(logits(one, [1, 2, 3]), logits(many, [1, 2, 3]))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_on_a_cpu_every_float_type_is_computed_in_float32(folder: Path, dtype: mx.Dtype) -> None:
    rewrite(folder, {name: a.astype(dtype) for name, a in tiny.weights(tiny.CONFIG).items()})
    assert Conversation(loaded(folder).model).forward([1]).dtype == mx.float32


@pytest.mark.parametrize("name", ["nowhere", "x" * 300, "a\0b", "~nobody-of-that-name/x"])
def test_a_name_that_leads_nowhere_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound, match="not found: it is no name in the model store"):
        open_model(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "what"), [(None, "no such file"), ("{", "not valid JSON"), ("[]", "object")]
)
def test_a_missing_or_broken_description_is_named(
    folder: Path, name: str, content: str | None, what: str
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    assert name in refusals.of_model(folder)
    assert what in refusals.of_model(folder) or name == "tokenizer.json"


def test_a_pipe_in_a_files_place_is_refused_without_opening_it(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert refusals.of_model(folder) == "model.safetensors: not a regular file"


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    edit(folder / "config.json", architectures=["MambaForCausalLM"])
    assert "MambaForCausalLM" in refusals.of_model(folder, UnsupportedModel)


def test_a_missing_an_unexpected_and_a_misshapen_tensor_are_each_named(folder: Path) -> None:
    weights = tiny.weights(tiny.CONFIG)
    norm = "model.norm.weight"
    rewrite(folder, {name: a for name, a in weights.items() if name != norm})
    assert refusals.of_model(folder) == f"missing tensors: {norm}"
    rewrite(folder, weights | {"model.layers.0.self_attn.q_proj.bias": mx.zeros(48)})
    assert refusals.of_model(folder) == "unexpected tensors: model.layers.0.self_attn.q_proj.bias"
    rewrite(folder, weights | {norm: mx.zeros((47,))})
    assert refusals.of_model(folder) == f"wrong shapes: {norm} (47,), expected (48,)"


def test_many_missing_tensors_are_counted_not_listed(folder: Path) -> None:
    rewrite(folder, {"model.norm.weight": mx.zeros(48)})
    assert refusals.of_model(folder).endswith("and 14 more")


def test_integer_weights_are_refused(folder: Path) -> None:
    rewrite(folder, tiny.weights(tiny.CONFIG) | {"model.norm.weight": mx.zeros((48,), mx.int32)})
    assert refusals.of_model(folder) == "model.norm.weight: dtype int32, expected a float type"


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_weight_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert refusals.of_model(folder).startswith("model.safetensors: not a valid safetensors file")


HOSTILE_HEADERS = {
    "a negative dimension whose end wraps around": ([-1], [0, 2**64 - 4]),
    "an end past the file": ([2], [0, 4096]),
    "reversed offsets": ([1], [4, 0]),
    "a hole before the data": ([1], [4, 8]),
    "a dimension that is no integer": ([1.5], [0, 4]),
}


@pytest.mark.parametrize("what", HOSTILE_HEADERS)
def test_a_hostile_header_never_reaches_mlx(folder: Path, what: str) -> None:
    shape, offsets = HOSTILE_HEADERS[what]
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(8)
    (folder / "model.safetensors").write_bytes(data)
    assert refusals.of_model(folder).startswith("model.safetensors: not a valid safetensors file")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_directory_whose_name_is_not_utf_8_is_refused_in_words(folder: Path) -> None:
    strange = folder.with_name(os.fsdecode(b"\xff"))
    folder.rename(strange)
    assert refusals.of_model(strange) == "config.json: its path is not UTF-8, and MLX opens no such file"


def test_a_description_of_an_endless_length_is_not_parsed(folder: Path) -> None:
    (folder / "config.json").write_text(f"[{'0,' * MAX_OBJECT_CHARS}0]")
    assert refusals.of_model(folder) == (
        f"config.json: {2 * MAX_OBJECT_CHARS + 3} characters, limit {MAX_OBJECT_CHARS}"
    )


def test_weights_that_go_away_while_they_are_read_are_named_and_their_place_is_not(folder: Path) -> None:
    weights = folder / "model.safetensors"

    def remove(share: float) -> None:
        if share == 1:
            weights.unlink()

    with pytest.raises(BadModelFiles) as caught:
        load(open_model(str(folder)), remove)
    assert str(caught.value) == "model.safetensors: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_that_must_not_be_read_are_named_and_their_place_is_not(folder: Path) -> None:
    (folder / "model.safetensors").chmod(0)
    assert refusals.of_model(folder).startswith("model.safetensors: ")


def test_an_index_cannot_lead_out_of_the_directory(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../tiny/model.safetensors"}}))
    assert "is not the name of a safetensors file" in refusals.of_model(folder)


def test_a_vocabulary_that_is_larger_than_the_model_is_refused(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=200)
    rewrite(folder, tiny.weights(tiny.CONFIG | {"vocab_size": 200}))
    assert refusals.of_model(folder) == (
        "tokenizer.json: '\u0143' has the id 255, but the embedding has only 200 rows"
    )


@pytest.mark.parametrize("token_id", [300, 5000, 2_000_000_000])
def test_an_entry_of_the_vocabulary_without_a_row_is_refused(folder: Path, token_id: int) -> None:
    path = folder / "tokenizer.json"
    parsed = json.loads(path.read_text())
    parsed["model"]["vocab"]["a"] = token_id
    path.write_text(json.dumps(parsed))
    assert refusals.of_model(folder) == (
        f"tokenizer.json: 'a' has the id {token_id}, but the embedding has only 300 rows"
    )


@pytest.mark.parametrize("token_id", [300, 5000, 2**31 - 1])
def test_a_begin_token_without_a_row_is_refused_if_prompts_begin_with_it(folder: Path, token_id: int) -> None:
    edit(folder / "generation_config.json", bos_token_id=token_id)
    assert refusals.of_model(folder) == (
        f"generation_config.json: bos_token_id is {token_id}, but the embedding has only 300 rows"
    )
    edit(folder / "generation_config.json", bos_token_id=None)
    edit(folder / "config.json", bos_token_id=token_id)
    assert refusals.of_model(folder).startswith(f"config.json: bos_token_id is {token_id}")
    edit(folder / "tokenizer_config.json", add_bos_token=False)
    assert complete(loaded(folder), GenerateRequest("x", 2))


def test_a_begin_token_that_was_added_beyond_the_rows_is_refused(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=257)
    rewrite(folder, tiny.weights(tiny.CONFIG | {"vocab_size": 257}))
    assert refusals.of_model(folder) == (
        "tokenizer_config.json: the id of bos_token is 257, but the embedding has only 257 rows"
    )


def test_added_tokens_without_a_row_are_refused_when_a_prompt_has_one(folder: Path) -> None:
    """A published model of 262,144 rows has the mark of an image as token 262,144."""
    edit(folder / "config.json", vocab_size=257)
    edit(folder / "tokenizer_config.json", add_bos_token=False)
    rewrite(folder, tiny.weights(tiny.CONFIG | {"vocab_size": 257}))
    model = loaded(folder)
    assert isinstance(complete(model, GenerateRequest("x", 2))[-1], Done)
    with pytest.raises(BadRequest, match=r"the token '<\|begin\|>' with the id 257, .* 257 tokens only"):
        complete(model, GenerateRequest(f"x{tiny.BOS}y", 2))


def test_ids_that_are_never_fed_may_be_any(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[tiny.EOS_ID, 2**31], suppress_tokens=[5000, 2**40])
    path = folder / "tokenizer.json"
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": [2_000_000_000], "tokens": ["x"]}},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": template}))
    assert isinstance(complete(loaded(folder), GenerateRequest("x", 2))[-1], Done)


def test_a_load_leaves_no_chain_of_random_keys_behind(folder: Path) -> None:
    """Layers are made of random numbers that nobody looks at; the state behind them is an array of its own."""
    for _ in range(3):
        loaded(folder)
    drawn = io.StringIO()
    state: Any = mx.random.state
    mx.export_to_dot(drawn, *state)
    assert "->" not in drawn.getvalue()
