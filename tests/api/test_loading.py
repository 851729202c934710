"""Loading a model and giving it up, while others ask."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.serving import SENTENCE, Serving, serving
from tests.parts.streams import PLAIN_TEXT, ask, plain, read_stream


def test_load_without_a_model_is_a_sign_of_life(probed: Serving) -> None:
    for path in ("/load", "/v1/models"):
        for body in (b"", b"{}", b'{"model":""}', b'{"model":null}'):
            assert probed.http.post(path, content=body).json() == {"Success": True}
        assert probed.http.get(path).json() == {"Success": True}
        assert probed.http.put(path).content == b""


def test_load_refuses_what_is_not_an_object_with_a_name(probed: Serving) -> None:
    for body in (b"[]", b"null", b"{", b'{"model":7}', b"\xff"):
        answer = probed.http.post("/load", content=body)
        got = answer.status_code, plain(answer.headers["content-type"], answer.content)
        assert got == (400, "Bad Request"), body


def test_a_load_replaces_the_model_and_its_cache(tiny_model: Path, other_model: Path) -> None:
    with serving(tiny_model) as served:
        first = served.answer(ask(SENTENCE))
        assert served.answer(ask(SENTENCE)).cached > 0
        assert served.http.post("/load", json={"model": str(other_model)}).json() == {"Success": True}
        status = served.http.get("/health").json()
        assert (status["model"], status["ContextLength"], status["progress"]) == ("other", 400, 100)
        second = served.answer(ask(SENTENCE))
        assert second.cached == 0
        assert second.text != first.text
        served.http.post("/load", json={"model": str(tiny_model)})
        assert served.answer(ask(SENTENCE)).text == first.text


def test_a_load_that_fails_leaves_everything_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (broken / name).write_bytes((tiny_model / name).read_bytes())
    (broken / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:-100])
    with serving(tiny_model) as served:
        text = served.answer(ask(SENTENCE)).text
        before = served.http.get("/health").json()
        missing = served.http.post("/load", json={"model": "/nowhere/at/all"})
        assert missing.status_code == 404
        assert "not found" in plain(missing.headers["content-type"], missing.content)
        refused = served.http.post("/load", json={"model": str(broken)})
        assert refused.status_code == 500
        message = plain(refused.headers["content-type"], refused.content)
        assert "model.safetensors" in message
        assert str(tmp_path) not in message
        after = served.http.get("/health").json()
        assert after | {"Memory": 0} == before | {"Memory": 0}
        again = served.answer(ask(SENTENCE))
        assert again.text == text
        assert again.cached > 0


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "\x1b[31m", "x" * 1_000_000, "x\n" * 500_000])
def test_a_refused_load_is_one_short_printable_line_whatever_the_files_say(
    probed: Serving, tmp_path: Path, name: str
) -> None:
    folder = tiny.write(tmp_path / "broken")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": f"{name}.safetensors"}}))
    answer = probed.http.post("/load", json={"model": str(folder)})
    assert answer.status_code == 500
    message = plain(answer.headers["content-type"], answer.content)
    assert message.isprintable()
    assert message.endswith("no such file")


def test_a_load_waits_for_the_generation_before_it(slow_model: Path, tiny_model: Path) -> None:
    with serving(slow_model) as served, ThreadPoolExecutor(1) as pool:
        with served.request(ask("x", 150, logit_bias=PLAIN_TEXT)) as running:
            running.started().next_record()
            load = pool.submit(served.http.post, "/load", json={"model": str(tiny_model)})
            rest = read_stream(running.response.read())
            assert rest.terminal["EvalCount"] == 150
        assert load.result().json() == {"Success": True}
        assert served.http.get("/health").json()["model"] == "tiny"


def test_without_a_model_there_is_a_503_and_a_load_ends_that(tiny_model: Path) -> None:
    with serving(tiny_model) as served:
        text = served.answer(ask(SENTENCE)).text
        unloaded = served.http.delete("/load")
        assert (unloaded.status_code, unloaded.content) == (200, b"")
        status = served.http.get("/health")
        assert status.status_code == 503
        assert status.json()["progress"] == 0
        with served.request(ask(SENTENCE)) as request:
            assert request.refusal() == (503, "model not loaded")
        for path in ("/v1/tokenize", "/v1/detokenize"):
            assert served.http.post(path, content=b"[1]").status_code == 503
        malformed = served.http.post("/completion", content=b"{")
        assert malformed.status_code == 400
        assert served.http.delete("/v1/models").status_code == 200
        assert served.http.post("/load", json={"model": str(tiny_model)}).json() == {"Success": True}
        assert served.answer(ask(SENTENCE)).text == text


def test_a_request_before_the_first_load_is_refused(tiny_model: Path) -> None:
    with serving(None) as served:
        assert served.http.get("/health").status_code == 503
        with served.request(ask(SENTENCE)) as request:
            assert request.refusal() == (503, "model not loaded")
        assert served.http.post("/load", json={"model": str(tiny_model)}).status_code == 200
        served.answer(ask(SENTENCE))
