"""Architectures of mlx-lm behind our contracts: what they compute, what they remember, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.base import LayerCache
from runner.config.fields import Config
from runner.errors import BadModelFiles, LoadError, UnsupportedModel
from runner.layers.packed import PackedMatrix
from runner.loading.loader import load
from runner.models import ARCHITECTURES, build, zoo
from runner.models.base import Model
from runner.models.zoo_caches import BorrowedCaches
from runner.store.resolve import open_model
from tests.parts import tiny
from tests.parts.processes import hosted
from tests.parts.reference import difference, feed, some_tokens
from tests.parts.streams import PLAIN_TEXT, Answer, Request, ask
from tests.parts.zoo_cases import (
    CASES,
    DECODER,
    RECURRENT,
    ROTATING,
    WINDOW,
    config_of,
    greedy_tokens,
    theirs,
    weights,
    write,
)

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-4
TOKENS = some_tokens(72)
OTHERS = some_tokens(30, "another end")
PLAIN = [name for name in CASES if name not in RECURRENT + ROTATING]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: write(folder / name, name) for name in CASES}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Model, mx.array]:
    return ours(folders[request.param]), expected(folders[request.param])


@cache
def ours(folder: Path) -> Model:
    return load(open_model(str(folder)), lambda share: None).model


@cache
def expected(folder: Path) -> mx.array:
    """mlx-lm's logits [T,V] of TOKENS, of one forward without a cache."""
    logits: mx.array = theirs(folder)(mx.array([TOKENS]))[0]
    return logits


# Logits.


def test_one_chunk_gives_the_logits_of_mlx_lm(pair: tuple[Model, mx.array]) -> None:
    model, logits = pair
    assert difference(feed(model, model.make_caches(), TOKENS), logits) < TOLERANCE


def test_many_chunks_give_the_logits_of_mlx_lm(pair: tuple[Model, mx.array]) -> None:
    model, logits = pair
    assert difference(feed(model, model.make_caches(), TOKENS, (1, 3, 7, 20)), logits) < TOLERANCE


def test_decoding_gives_the_logits_of_mlx_lm(pair: tuple[Model, mx.array]) -> None:
    model, logits = pair
    caches = model.make_caches()
    parts = [feed(model, caches, TOKENS[:5]), feed(model, caches, TOKENS[5:], (1,))]
    assert difference(mx.concatenate(parts), logits) < TOLERANCE


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(CASES)),
    steps=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 14)), min_size=1, max_size=10),
)
def test_whatever_is_written_and_rewound_the_logits_are_those_of_a_fresh_computation(
    folders: dict[str, Path], name: str, steps: list[tuple[int, int]]
) -> None:
    """A rewind that is refused changes nothing; what comes behind any is never what was there before."""
    model = ours(folders[name])
    caches = model.make_caches()
    held: list[int] = []
    for turn, (length, back) in enumerate(steps):
        tokens = some_tokens(length, f"turn {turn}")
        logits = feed(model, caches, tokens)
        held += tokens
        fresh = feed(model, model.make_caches(), held)[-length:]
        assert difference(logits, fresh) < TOLERANCE
        to = max(0, len(held) - back)
        if caches[0].rewind(to):
            held = held[:to]
        else:
            assert name not in PLAIN
        assert caches[0].offset == len(held)


# Rewinds.


@pytest.mark.parametrize("name", PLAIN)
def test_plain_caches_go_back_to_anywhere(folders: dict[str, Path], name: str) -> None:
    model = ours(folders[name])
    caches = model.make_caches()
    feed(model, caches, TOKENS[:37] + OTHERS, (25, 12, 30))
    assert caches[0].rewind(37)
    rest = feed(model, caches, TOKENS[37:], (11,))
    assert difference(rest, expected(folders[name])[37:]) < TOLERANCE


@pytest.mark.parametrize("name", ROTATING)
def test_rotating_caches_go_back_until_they_are_full(folders: dict[str, Path], name: str) -> None:
    model = ours(folders[name])
    caches = model.make_caches()
    feed(model, caches, TOKENS[:5] + OTHERS[:3], (5, 1))
    assert caches[0].rewind(5)
    assert difference(feed(model, caches, TOKENS[5:37], (4,)), expected(folders[name])[5:37]) < TOLERANCE
    assert not caches[0].rewind(36)
    assert caches[0].rewind(37)
    assert difference(feed(model, caches, TOKENS[37:], (1,)), expected(folders[name])[37:]) < TOLERANCE
    assert caches[0].offset == len(TOKENS) > WINDOW


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_states_go_back_one_step_and_to_checkpoints(folders: dict[str, Path], name: str) -> None:
    """Where decoding runs one step ahead, and where the same prompt comes again."""
    model, logits = ours(folders[name]), expected(folders[name])
    for to in (40, 36):
        caches = model.make_caches()
        feed(model, caches, TOKENS[:36], (12,))
        caches[0].checkpoint()
        assert not caches[0].rewind(12)
        assert difference(feed(model, caches, TOKENS[36:40], (1,)), logits[36:40]) < TOLERANCE
        feed(model, caches, OTHERS[:1])
        assert not caches[0].rewind(38)
        assert [caches[0].restorable(position) for position in (35, 38, 40, 41)] == [0, 36, 40, 41]
        assert caches[0].rewind(to)
        assert difference(feed(model, caches, TOKENS[to:42], (1,)), logits[to:42]) < TOLERANCE
        assert caches[0].rewind(36), "what was noted stays as it was"
        assert difference(feed(model, caches, TOKENS[36:], (9,)), logits[36:]) < TOLERANCE
        assert not caches[0].rewind(40)
        assert caches[0].rewind(0)
        assert difference(feed(model, caches, TOKENS[:20]), logits[:20]) < TOLERANCE


@pytest.mark.parametrize("to", [-1, 73])
def test_nothing_is_rewound_to_where_it_never_was(pair: tuple[Model, mx.array], to: int) -> None:
    model, _ = pair
    caches = model.make_caches()
    feed(model, caches, TOKENS)
    assert not caches[0].rewind(to)
    assert caches[0].offset == 72


def test_a_cache_of_a_kind_that_is_not_known_never_goes_back(folders: dict[str, Path]) -> None:
    """Some of mlx-lm's say that they can and lose what they need."""
    from mlx_lm.models import cache as kinds

    caches = BorrowedCaches(lambda: [kinds.ConcatenateKVCache()], kinds)  # type: ignore[no-untyped-call]
    (native,) = caches.native
    caches.expect(3)
    native.update_and_fetch(mx.zeros((1, 1, 3, 4)), mx.zeros((1, 1, 3, 4)))
    assert native.is_trimmable()
    assert not caches.rewind(2)
    assert caches.rewind(3)
    assert caches.rewind(0)
    assert caches.native[0].empty()


def test_what_was_noted_stays_what_it_was_when_a_state_is_changed_in_place() -> None:
    from mlx_lm.models import cache as kinds

    caches = BorrowedCaches(lambda: [kinds.ArraysCache(1)], kinds)
    (native,) = caches.native
    caches.expect(1)
    native[0] = mx.zeros(3)
    for _ in range(2):
        caches.expect(1)
        native.cache[0] += 1
        assert caches.rewind(1)
        assert mx.array_equal(native[0], mx.zeros(3))


def test_bytes_are_those_of_buffers_and_of_what_is_noted(folders: dict[str, Path]) -> None:
    model = ours(folders["Mamba2ForCausalLM"])
    caches = model.make_caches()
    assert caches[0].nbytes == 0
    feed(model, caches, TOKENS[:9])
    state = sum(array.nbytes for array in caches[0].arrays())
    assert caches[0].nbytes == state > 0
    caches[0].checkpoint()
    feed(model, caches, TOKENS[:5], (1,))
    assert caches[0].nbytes == 3 * state


# Prefill.


def test_prefill_never_computes_the_head(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The head is a tensor that cannot be read: as soon as anything asks for it, that fails."""
    path = tmp_path / "head.safetensors"
    model: Any = zoo.Model(config_of("Phi3ForCausalLM"), "phi3")
    made = weights(config_of("Phi3ForCausalLM"))
    mx.save_safetensors(str(path), {"head": made["lm_head.weight"]})
    lazy: Any = mx.load(str(path))
    path.write_bytes(path.read_bytes()[:-8])
    model.load_weights(list((made | {"lm_head.weight": lazy["head"]}).items()))
    caches: list[LayerCache] = model.make_caches()
    for _ in range(2):
        logits = model(mx.array([TOKENS[:20]]), caches)
        mx.eval([array for cache in caches for array in cache.arrays()])
    with pytest.raises(RuntimeError, match="read"):
        mx.eval(logits)


# Whole processes.


@pytest.mark.parametrize(
    ("name", "repeated"),
    [
        ("Cohere2ForCausalLM", 0),  # its windows are full by then; those with 33 have recurrent states
        ("Mamba2ForCausalLM", 33),
        ("NemotronHForCausalLM", 33),
        ("Phi3ForCausalLM", 36),
    ],
)
def test_a_process_says_what_mlx_lm_says(folders: dict[str, Path], name: str, repeated: int) -> None:
    """Also when the same prompt comes again, and when a prompt goes on behind an answer."""
    prompt, count = "How many roads must a man walk down?", 24

    def asked(port: int, prompt: str) -> Answer:
        with Request(port, ask(prompt, count, logit_bias=PLAIN_TEXT)) as request:
            return request.answer()

    with hosted(folders[name]) as running:
        first, again = asked(running.port, prompt), asked(running.port, prompt)
        further = asked(running.port, f"{prompt}{again.text} And how many seas?")
        assert f"architecture={name}" in running.output.text
    assert (first.cached, again.cached, further.cached) == (0, repeated, 37 + count - 1)
    for answer, text in (
        (first, prompt),
        (again, prompt),
        (further, f"{prompt}{again.text} And how many seas?"),
    ):
        ids = [tiny.BOS_ID, *tiny.tokenizer().encode(text).ids]
        spoken = [record["token"] for record in answer.records[:-1]]
        assert spoken == greedy_tokens(folders[name], ids, count, PLAIN_TEXT)


# Quantized checkpoints.


def quantized(folder: Path, name: str, *, bits: int, mode: str = "affine", **changes: Any) -> Path:
    """As mlx-lm's own converter writes them."""
    from mlx_lm.utils import quantize_model, save_model

    write(folder, name, **changes)
    model = theirs(folder)
    config = json.loads((folder / "config.json").read_text())
    group_size = {"affine": 64, "nvfp4": 16}.get(mode, 32)
    model, config = quantize_model(model, config, group_size, bits, mode=mode)
    (folder / "model.safetensors").unlink()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["floats", "packed"])
@pytest.mark.parametrize(
    ("name", "bits", "mode"),
    [
        ("Cohere2ForCausalLM", 4, "affine"),
        ("DeepseekV3ForCausalLM", 4, "affine"),
        ("LagunaForCausalLM", 4, "affine"),
        ("LagunaForCausalLM", 4, "mxfp4"),
        ("Mamba2ForCausalLM", 8, "affine"),
        ("NemotronHForCausalLM", 4, "affine"),
        ("OlmoeForCausalLM", 8, "mxfp8"),
        ("OlmoeForCausalLM", 4, "nvfp4"),
        ("Phi3ForCausalLM", 4, "affine"),
    ],
)
def test_what_mlx_lm_quantized_gives_the_logits_of_mlx_lm(
    tmp_path: Path, name: str, bits: int, mode: str, packed: bool
) -> None:
    """Dense layers, embeddings, heads and experts, some kept at other widths than the rest."""
    folder = quantized(tmp_path / "model", name, bits=bits, mode=mode, intermediate_size=64)
    model = load(open_model(str(folder)), lambda share: None, packed=packed).model
    reference = theirs(folder)
    reference.set_dtype(mx.float32)
    assert difference(feed(model, model.make_caches(), TOKENS), reference(mx.array([TOKENS]))[0]) < TOLERANCE
    assert isinstance(model, zoo.Model)
    stay = [path for path, module in model.named_modules() if "scales" in module]
    assert (len(stay) > 3) == packed
    assert any(isinstance(module, PackedMatrix) for _, module in model.named_modules()) == packed
    if {"num_experts", "n_routed_experts"} & CASES[name].keys():
        assert any("switch_mlp" in path or "experts" in path for path in stay) == packed


# What is refused, and how.


def refusal(config: Config) -> str:
    with pytest.raises(LoadError) as caught:
        build(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "Error:" not in message, "a word that hosts look for"
    return f"{type(caught.value).__name__}: {message}"


PHI3 = config_of("Phi3ForCausalLM")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, 'has no model_type "bert" either'),
        ({"model_type": "../phi3"}, 'has no model_type "../phi3" either'),
        ({"model_type": "phi3.phi3"}, 'has no model_type "phi3.phi3" either'),
        ({"model_type": None}, [*ARCHITECTURES][-1]),
        ({"model_type": "llama"}, [*ARCHITECTURES][-1]),
        (
            {"hidden_size": "wide"},
            "BadModelFiles: config.json: mlx-lm's phi3 cannot be built from it:"
            " unsupported operand type(s) for /: 'int' and 'str' (TypeError)",
        ),
        (
            {"num_attention_heads": 0},
            "BadModelFiles: config.json: mlx-lm's phi3 cannot be built from it:"
            " integer division or modulo by zero (ZeroDivisionError)",
        ),
        (
            {"num_hidden_layers": 10**9},
            "BadModelFiles: config.json: num_hidden_layers is 1000000000, expected an integer from 1 to 1000",
        ),
        (
            {"vocab_size": None},
            "BadModelFiles: config.json: vocab_size is missing, expected an integer from 1 to 16777216",
        ),
        (
            {"model_type": "bitnet"},
            "UnsupportedModel: mlx-lm's bitnet has packed weights of its own kind"
            " (model.layers.0.self_attn.q_proj.weight)",
        ),
    ],
)
def test_what_mlx_lm_cannot_run_is_one_line(changes: Config, message: str) -> None:
    assert refusal({**PHI3, **changes}).endswith(message)


def test_a_field_that_mlx_lm_wants_is_named() -> None:
    config = config_of("GraniteForCausalLM")
    del config["logits_scaling"]
    assert "'logits_scaling' (TypeError)" in refusal(config)


def test_code_that_a_model_brings_along_is_not_looked_at(tmp_path: Path) -> None:
    """mlx-lm would run it, if it was told that it may."""
    folder = write(tmp_path / "model", "Phi3ForCausalLM")
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    config = {**PHI3, "model_file": "modeling.py", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert ours(folder).vocab_size == 300
    config["model_type"] = "modeling"
    assert refusal(config).endswith('has no model_type "modeling" either')


def test_tensors_must_be_there_under_mlx_lms_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "Phi3ForCausalLM")
    tensors = weights(PHI3)
    norm = tensors.pop("model.norm.weight")
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | {"model.norm.bias": norm})
    with pytest.raises(BadModelFiles, match=r"^missing tensors: model.norm.weight$"):
        load(open_model(str(folder)), lambda share: None)


def test_what_mlx_lm_cannot_sort_out_is_one_line(tmp_path: Path) -> None:
    """An expert is missing between the others, where mlx-lm puts them together."""
    folder = write(tmp_path / "model", "OlmoeForCausalLM")
    tensors = weights(config_of("OlmoeForCausalLM"))
    name = "model.layers.0.mlp.{}.up_proj.weight"
    experts = tensors.pop(name.format("switch_mlp"))
    tensors |= {name.format(f"experts.{number}"): experts[number] for number in (0, 1, 2, 4, 5)}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(
        BadModelFiles, match=r"^mlx-lm's olmoe cannot take these tensors: .*experts.3.*Error\)$"
    ):
        load(open_model(str(folder)), lambda share: None)


# What a config says.


def test_infinities_are_read_in_transformers_spelling(folders: dict[str, Path]) -> None:
    model: Any = ours(folders["Mamba2ForCausalLM"])
    assert model._theirs.args.time_step_limit == [0.0, float("inf")]


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length"])
def test_the_context_is_what_the_config_says(name: str) -> None:
    config = {**PHI3, "max_position_embeddings": None, name: 777}
    assert zoo.Model(config, "phi3").context_length == 777


def test_a_recurrent_model_that_names_no_limit_gets_one() -> None:
    config = {**config_of("Mamba2ForCausalLM"), "max_position_embeddings": None}
    assert zoo.Model(config, "mamba2").context_length == zoo.UNSTATED_POSITIONS


def test_the_text_part_of_a_multimodal_config_counts() -> None:
    text = {**DECODER, "vocab_size": 290, "max_position_embeddings": 128, "model_type": "llama"}
    model = zoo.Model(
        {"model_type": "mistral3", "text_config": text, "max_position_embeddings": 5}, "mistral3"
    )
    assert (model.vocab_size, model.context_length) == (290, 128)


def test_more_logits_than_the_vocabulary_has_are_refused() -> None:
    model = zoo.Model(PHI3, "phi3")
    model.vocab_size = 280
    with pytest.raises(UnsupportedModel, match="vocab_size is 280, but mlx-lm's phi3 has logits for 300"):
        model.load_weights([], strict=False)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"sliding_window": 40}, 40),
        ({"sliding_window": 40, "use_sliding_window": False}, 256),
        ({"sliding_window": 0}, 256),
        ({"sliding_window": 4096}, 256),
    ],
)
def test_a_window_that_mlx_lm_overlooks_is_never_left(
    fields: Config, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert zoo.Model({**PHI3, **fields}, "phi3").context_length == length
    assert ("Context cut" in caplog.text) == (length == 40)


def test_a_window_that_mlx_lm_honours_limits_nothing(folders: dict[str, Path]) -> None:
    assert ours(folders["Cohere2ForCausalLM"]).context_length == 256


def test_the_newer_spelling_of_rotary_positions_is_read(tmp_path: Path) -> None:
    """mlx-lm's OLMo 2 knows the older one only, and takes a default without a word."""
    scaling = {"rope_type": "linear", "factor": 4.0}
    older = {"rope_theta": 5e5, "rope_scaling": scaling}
    newer: Config = {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, **scaling}}
    name = "Olmo2ForCausalLM"
    logits = expected(write(tmp_path / "older", name, **older))
    folder = write(tmp_path / "newer", name, **older)
    config = {name: value for name, value in config_of(name, **newer).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    model = ours(folder)
    assert difference(feed(model, model.make_caches(), TOKENS), logits) < TOLERANCE
    assert difference(logits, expected(write(tmp_path / "default", name))) > 0.1


def test_rotary_positions_that_mlx_lm_cannot_do_are_refused() -> None:
    rope = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}
    message = refusal(config_of("Olmo2ForCausalLM", rope_parameters=rope))
    assert message.startswith("UnsupportedModel: config.json: rope_parameters {")
    assert message.endswith("are more than mlx-lm's olmo2 can do")


def test_what_mlx_lm_prints_is_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.Model({**PHI3, "rope_scaling": {"type": "yarn", "long_factor": [1.0]}}, "phi3")
    (record,) = caplog.records
    assert vars(record)["said"].startswith("[WARNING] rope_scaling 'type' currently only supports")
    assert capsys.readouterr().out == ""


# What is imported.


def test_the_table_of_types_is_mlx_lms() -> None:
    from mlx_lm import utils

    assert zoo.MODULES == utils.MODEL_REMAPPING
    assert zoo.MODULES_OF_ARCHITECTURES == utils.MODEL_ARCHITECTURE_REMAPPING


@pytest.mark.parametrize("name", ["NemotronHForCausalLM", "Phi3ForCausalLM"])
def test_a_completion_needs_nothing_of_mlx_lm_but_its_models(folders: dict[str, Path], name: str) -> None:
    """Neither transformers, which takes a second, nor its own lower limit of open files."""
    program = f"""
import resource, sys, threading
for name in ("transformers", "huggingface_hub", "numpy", "safetensors"):
    sys.modules[name] = None
from runner.loading.loader import load
from runner.generation.pipeline import generate
from runner.store.resolve import open_model
from runner.types import Done, GenerateRequest
before = resource.getrlimit(resource.RLIMIT_NOFILE)
events = []
loaded = load(open_model({str(folders[name])!r}), lambda share: None)
generate(loaded, GenerateRequest("hello", 3), events.append, threading.Event())
assert isinstance(events[-1], Done), events
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
theirs = {{name for name in sys.modules if name.startswith("mlx_lm")}}
assert all(name in ("mlx_lm", "mlx_lm.models") or name.startswith("mlx_lm.models.") for name in theirs), theirs
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_without_the_extra_an_error_names_it(folders: dict[str, Path]) -> None:
    program = f"""
import sys
sys.modules["mlx_lm"] = None
from runner.errors import UnsupportedModel
from runner.loading.loader import load
from runner.store.resolve import open_model
try:
    load(open_model({str(folders["Phi3ForCausalLM"])!r}), lambda share: None)
except UnsupportedModel as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True
    )
    message = done.stdout.strip()
    assert message.startswith('architecture "Phi3ForCausalLM" is not supported; these are: ')
    assert message.endswith("; with pip install 'mlx-runner[zoo]' those of mlx-lm are")
