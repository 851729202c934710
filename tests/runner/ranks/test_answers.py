"""A worker with others that follow answers as one without: whatever is asked, in whatever company."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from runner.errors import LoadError
from runner.generation.trial import kernels_agree
from runner.kernels import compiled
from runner.loading.loader import load
from runner.machine import device
from runner.ranks import follower
from runner.types import (
    AS_COMPUTED,
    Chunk,
    Done,
    Event,
    Failed,
    GenerateRequest,
    Grammar,
    KVType,
    SamplingOptions,
)
from runner.worker import Worker
from tests.parts import tiny
from tests.parts.answer import WAIT_S, Answer
from tests.parts.architectures import CASES
from tests.parts.fakes import text_of
from tests.parts.ranks import leading
from tests.parts.rows import KINDS

GRAMMARS = (None, None, None, Grammar("regex", "[a-f]{9}-[0-9]+"))


@contextlib.contextmanager
def working(
    model: Path | None, size: int, *, parallel: int = 3, kv_type: KVType = AS_COMPUTED
) -> Iterator[Worker]:
    """With so many processes' parts, of which each is a thread; with one as ever."""
    deaths: list[str] = []
    lost: list[str] = []
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(leading(size, lost)) if size > 1 else None
        worker = Worker(100, deaths.append, parallel=parallel, kv_type=kv_type, ranks=ranks)
        worker.start()
        if model is not None:
            worker.load(str(model)).result(WAIT_S)
        yield worker
        worker.stop()
        assert worker.join(WAIT_S)
        assert not lost
    assert not deaths


def requests(count: int, seed: int) -> list[GenerateRequest]:
    """Of all kinds; many begin alike."""
    rng = random.Random(seed)
    prompts = [""]
    found = []
    for _ in range(count):
        prompt = rng.choice(prompts[-3:])[: rng.randrange(80)] + "".join(
            rng.choices("ab", k=rng.randrange(1, 30))
        )
        prompts.append(prompt)
        found.append(
            GenerateRequest(
                prompt,
                rng.choice([1, 5, 12]),
                SamplingOptions(
                    temperature=rng.choice([0.0, 0.8]),
                    top_k=rng.choice([0, 20]),
                    seed=rng.randrange(4),
                    repeat_last_n=8,
                    presence_penalty=rng.choice([0.0, 1.0]),
                ),
                logprobs=rng.random() < 0.3,
                grammar=rng.choice(GRAMMARS),
            )
        )
    return found


def answers(worker: Worker, asked: Sequence[GenerateRequest]) -> list[list[Event]]:
    """All at once."""
    outlets = [Answer() for _ in asked]
    for request, outlet in zip(asked, outlets, strict=True):
        worker.generate(request, outlet)
    for outlet in outlets:
        assert isinstance(outlet.end(), Done), outlet.events[-1]
    return [outlet.events for outlet in outlets]


def texts(found: Sequence[Sequence[Event]]) -> list[tuple[str, str]]:
    return [(text_of(events), events[-1].reason if isinstance(events[-1], Done) else "") for events in found]


EVEN = {"latent": {"num_attention_heads": 4}}


def model_of(folder: Path, kind: str) -> Path:
    case = next(case for case in CASES.values() if case.architecture == KINDS[kind])
    return tiny.write(folder, **case.config | EVEN.get(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_requests_in_company_get_what_they_get_of_one_process(tmp_path: Path, kind: str) -> None:
    model = model_of(tmp_path / "model", kind)
    asked = requests(30, seed=1)
    with working(model, 1) as alone, working(model, 2) as together:
        assert texts(answers(together, asked)) == texts(answers(alone, asked))


def test_quantized_keys_and_values_are_those_of_one_process(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model", head_dim=32)
    asked = requests(6, seed=5)
    with (
        working(model, 1, kv_type="q8_0") as alone,
        working(model, 2, kv_type="q8_0") as together,
    ):
        assert together.status.kv_type == "q8_0"
        assert texts(answers(together, asked)) == texts(answers(alone, asked))


@pytest.mark.parametrize("content", [True, False])
def test_kernels_are_tried_by_all_and_used_if_all_are_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bool
) -> None:
    """Here they are MLX's operations, and if need be rank 1 finds fault with them."""
    loads: list[object] = []

    def counted(*given: object, **how: object) -> object:
        loads.append(given)
        return load(*given, **how)  # type: ignore[arg-type]  # as it comes

    model = tiny.write(tmp_path / "model")
    asked = requests(3, seed=6)
    with working(model, 1) as alone:
        expected = texts(answers(alone, asked))
    monkeypatch.setattr(device, "compiles_kernels", lambda: True)
    monkeypatch.setattr(compiled, "_trusted", True)
    monkeypatch.setattr(follower, "load", counted)
    if not content:
        monkeypatch.setattr(follower, "kernels_agree", lambda *given: not kernels_agree(*given))
    with working(model, 2) as together:
        assert texts(answers(together, asked)) == expected
    assert compiled._trusted == content
    assert len(loads) == (1 if content else 2)


def test_cancels_in_the_queue_in_prefill_and_in_decode_leave_everybody_in_step(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    endless = GenerateRequest("x", 400, SamplingOptions(logit_bias=((tiny.EOS_ID, -1e4),)))
    with working(model, 1, parallel=1) as alone, working(model, 2, parallel=1) as together:
        decoding, feeding, queued = Answer(), Answer(), Answer()
        live = together.generate(endless, decoding)
        long = together.generate(GenerateRequest("y" * 480, 3), feeding)
        waiting = together.generate(endless, queued)
        while not isinstance(decoding.next(), Chunk):
            pass
        waiting.cancel()
        live.cancel()
        assert isinstance(decoding.end(), Failed)
        feeding.next()
        long.cancel()
        feeding.end()
        asked = requests(3, seed=2)
        assert texts(answers(together, asked)) == texts(answers(alone, asked))
        assert queued.is_silent()


def test_the_model_is_replaced_everywhere_and_a_bad_one_is_one_error(tmp_path: Path) -> None:
    first, second = tiny.write(tmp_path / "first"), tiny.write(tmp_path / "second", seed=1)
    bad = tiny.write(tmp_path / "bad", num_attention_heads=3, num_key_value_heads=3)
    asked = requests(2, seed=3)
    with working(second, 1) as alone, working(first, 2) as together:
        answers(together, asked)
        with pytest.raises(LoadError, match="the model has 3 heads, which 2 does not divide"):
            together.load(str(bad)).result(WAIT_S)
        assert together.status.model == "first"
        answers(together, asked)
        together.load(str(second)).result(WAIT_S)
        assert texts(answers(together, asked)) == texts(answers(alone, asked))


def test_an_emptied_cache_is_empty_everywhere(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    asked = requests(2, seed=4)
    with working(model, 2) as together:
        before = texts(answers(together, asked))
        assert together.empty_cache().result(WAIT_S)
        assert texts(answers(together, asked)) == before
