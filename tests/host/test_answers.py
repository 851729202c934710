"""What users of a real Ollama get from our runner: over HTTP, from both official clients, on the command line."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.parts.hosts import ANSWER_S, Host
from tests.parts.processes import wait_until

SUM = "What is 7 plus 5?"
SUM_ANSWER = "7 plus 5 is 12."
GREEDY = {"temperature": 0}
LIVELY = {"temperature": 1.5, "num_predict": 30}
STORY = "Tell me a short story about a shy robot."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def python_client(host: Host) -> ollama.Client:
    return ollama.Client(host=f"http://{host.address}", trust_env=False)  # whatever proxies are set


def check_counts(answer: dict[str, Any]) -> None:
    assert answer["done"] is True
    assert answer["prompt_eval_count"] > 1
    assert answer["eval_count"] > 1
    assert 0 < answer["prompt_eval_duration"] < answer["total_duration"]
    assert 0 < answer["eval_duration"] < answer["total_duration"]


# Plain HTTP.


def test_generate_answers_at_once_and_in_pieces(host: Host) -> None:
    whole = host.generate(SUM, options=GREEDY)
    assert whole["response"] == SUM_ANSWER
    assert whole["done_reason"] == "stop"
    check_counts(whole)
    with host.stream("/api/generate", model="demo", prompt=SUM, options=GREEDY) as records:
        *pieces, last = records
    assert "".join(piece["response"] for piece in pieces) + last["response"] == SUM_ANSWER
    assert len(pieces) > 4
    assert not any(piece["done"] for piece in pieces)
    check_counts(last)


def test_chat_answers_at_once_and_in_pieces(host: Host) -> None:
    body: dict[str, Any] = {"model": "demo", "messages": [user(SUM)], "options": GREEDY}
    whole = host.ask("/api/chat", **body)
    assert whole["message"] == {"role": "assistant", "content": SUM_ANSWER}
    check_counts(whole)
    with host.stream("/api/chat", **body) as records:
        *pieces, last = records
    assert "".join(piece["message"]["content"] for piece in pieces) + last["message"]["content"] == SUM_ANSWER
    check_counts(last)


def test_a_quantized_import_answers_and_is_shown_as_what_it_is(host: Host) -> None:
    assert host.generate(SUM, model="demo:int4", options=GREEDY)["response"] == SUM_ANSWER
    if not host.is_since("v0.34.0"):
        return  # older ones look at the first blob only
    answer = host.ask("/api/show", model="demo:int4", verbose=True)
    assert answer["details"]["quantization_level"] == "int4"
    assert answer["model_info"]["general.parameter_count"] == 5_672_192
    kinds = {tensor["name"]: tensor["type"] for tensor in answer["tensors"]}
    assert kinds["model.layers.0.mlp.gate_proj.weight"] == "int4"
    assert kinds["model.layers.0.mlp.down_proj.weight"] == "int8"
    assert kinds["model.embed_tokens.weight"] == "int8"


def test_a_raw_prompt_is_not_dressed(host: Host) -> None:
    start, options = "Once upon a time", GREEDY | {"num_predict": 6}
    raw = host.generate(start, raw=True, options=options)
    assert raw["prompt_eval_count"] + 3 == host.generate(start, options=options)["prompt_eval_count"]
    assert raw["response"].startswith((",", " "))


def test_a_text_of_many_bytes_a_character_arrives_whole(host: Host) -> None:
    answer = host.ask("/api/chat", model="demo", messages=[user("Show me a cat emoji.")], options=GREEDY)
    assert answer["message"]["content"] == "🐱"


def test_the_routes_of_other_vendors_lead_here_too(host: Host) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": [user(SUM)], "temperature": 0}
    answer = host.ask("/v1/chat/completions", **asked)
    assert answer["choices"][0]["message"]["content"] == SUM_ANSWER
    assert answer["usage"]["completion_tokens"] > 1
    answer = host.ask("/v1/messages", **asked, max_tokens=30)
    assert answer["content"] == [{"type": "text", "text": SUM_ANSWER}]


# Options.


def test_temperature_0_says_the_same_twice(host: Host) -> None:
    texts = {host.generate(STORY, options=GREEDY | {"num_predict": 40})["response"] for _ in range(2)}
    assert len(texts) == 1


def test_a_temperature_above_0_says_something_else(host: Host) -> None:
    assert len({host.generate(STORY, options=LIVELY)["response"] for _ in range(5)}) > 1


def test_a_seed_says_the_same_twice(host: Host) -> None:
    if not host.is_since("v0.21.1"):
        pytest.skip("hosts before v0.21.1 pass no seed on")
    texts = {host.generate(STORY, options=LIVELY | {"seed": 7})["response"] for _ in range(3)}
    assert len(texts) == 1
    assert host.generate(STORY, options=LIVELY | {"seed": 8})["response"] not in texts


def test_num_predict_is_the_limit(host: Host) -> None:
    answer = host.generate(STORY, options=GREEDY | {"num_predict": 3})
    assert answer["eval_count"] == 3
    assert answer["done_reason"] == "length"


def test_a_stop_ends_the_text_before_it(host: Host) -> None:
    if not host.is_since("v0.21.1"):
        pytest.skip("hosts before v0.21.1 pass no stop on")
    question = "Count down from 10."
    assert host.generate(question, options=GREEDY)["response"] == "10, 9, 8, 7, 6, 5, 4, 3, 2, 1"
    answer = host.generate(question, options=GREEDY | {"stop": [", 6"]})
    assert answer["response"] == "10, 9, 8, 7"
    assert answer["done_reason"] == "stop"


def test_top_logprobs_come_with_every_token(host: Host) -> None:
    if not host.is_since("v0.21.1"):
        pytest.skip("hosts before v0.21.1 pass no logprobs on")
    answer = host.generate(SUM, options=GREEDY, logprobs=True, top_logprobs=3)
    assert "".join(entry["token"] for entry in answer["logprobs"]) == SUM_ANSWER
    for entry in answer["logprobs"]:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy


# Conversations.


def test_a_second_turn_finds_the_first_in_the_cache(host: Host) -> None:
    talk = [user("My name is Mia.")]
    first = host.ask("/api/chat", model="demo", messages=talk, options=GREEDY)
    talk += [assistant(first["message"]["content"]), user("What is my name?")]
    before = len(host.output.text)
    second = host.ask("/api/chat", model="demo", messages=talk, options=GREEDY)
    assert "Mia" in second["message"]["content"]
    assert second["prompt_eval_count"] > first["prompt_eval_count"] + first["eval_count"]
    wait_until(lambda: 'msg="Cache hit"' in host.output.text[before:], ANSWER_S, "a cache hit in the log")
    if host.is_since("v0.34.0"):
        assert second["prompt_eval_cached_count"] >= first["prompt_eval_count"] + first["eval_count"]


def test_an_unfinished_answer_is_continued(host: Host) -> None:
    talk = [user("What is the capital of Japan?"), assistant("The capital of Japan is")]
    answer = host.ask("/api/chat", model="demo", messages=talk, options=GREEDY)
    assert answer["message"]["content"].strip() == "Tokyo."


# Clients.


def test_the_python_client_is_served(host: Host) -> None:
    with python_client(host) as client:
        assert "demo:latest" in [model.model for model in client.list().models]
        whole = client.chat("demo", [user(SUM)], options=GREEDY)
        assert whole.message.content == SUM_ANSWER
        pieces = list(client.chat("demo", [user(SUM)], options=GREEDY, stream=True))
        assert "".join(piece.message.content or "" for piece in pieces) == SUM_ANSWER
        assert pieces[-1].done_reason == "stop"
        assert client.generate("demo", SUM, options=GREEDY).response == SUM_ANSWER


def test_the_javascript_client_is_served(host: Host, javascript: Path) -> None:
    script = Path(__file__).with_name("client.mjs").read_text()
    command = ["node", "--input-type=module", "--eval", script, f"http://{host.address}", SUM]
    done = subprocess.run(command, cwd=javascript, capture_output=True, text=True, timeout=ANSWER_S)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {"whole": SUM_ANSWER, "pieces": SUM_ANSWER, "generated": SUM_ANSWER, "reason": "stop"}


def test_the_command_line_is_served(host: Host) -> None:
    assert host.command("run", "demo", SUM).strip() == SUM_ANSWER
    assert "demo:latest" in host.command("ps")
    assert "llama" in host.command("show", "demo")


def test_a_model_can_be_copied_and_its_name_can_be_long(host: Host) -> None:
    host.command("cp", "demo", "somebody/copy:v1")
    try:
        assert host.command("run", "somebody/copy:v1", SUM).strip() == SUM_ANSWER
    finally:
        host.command("rm", "somebody/copy:v1")


def test_a_modelfile_makes_a_model_of_ours(host: Host, tmp_path: Path) -> None:
    if not host.is_since("v0.34.0"):
        pytest.skip(
            "v0.17.4 forgets what its copy is made of, with its own runner too; between them not tried"
        )
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(
        "FROM demo\nSYSTEM You are a pirate.\nPARAMETER temperature 0\nPARAMETER num_predict 3\n"
    )
    host.command("create", "pirate", "-f", str(modelfile))
    try:
        answer = host.generate("Hello!", "pirate")
        assert answer["response"].startswith("Arr")
        assert answer["eval_count"] == 3
    finally:
        host.command("rm", "pirate")


def test_four_clients_at_once_get_what_each_gets_alone(host: Host) -> None:
    questions = [f"What is {number} plus 5?" for number in (3, 14, 25, 36)]
    questions += ["Count down from 10.", "Tom is 9 years old and lives in Rome. Write this as JSON."]

    def answer(question: str) -> str:
        with python_client(host) as client:
            pieces = client.chat("demo", [user(question)], options=GREEDY, stream=True)
            return "".join(piece.message.content or "" for piece in pieces)

    alone = [answer(question) for question in questions]
    assert alone[0] == "3 plus 5 is 8."
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, questions * 3)) == alone * 3
