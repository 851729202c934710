"""The cache mode of scripts/bench.py: what it asks, what it makes of the answers, and a short run of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmark import random_models
from benchmark.cache import First, Round, fed_for, summary
from benchmark.conversation import NO_MARKS, conversation, marks
from benchmark.inside import Tokenizer

from tests.parts import tiny

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 300.0


def run(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [
        sys.executable,
        ROOT / "scripts/bench.py",
        "--model",
        model,
        "--cache",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)


def chatty() -> Tokenizer:
    return Tokenizer(random_models.tokenizer().to_str())


def test_a_chat_goes_on_behind_its_answer_and_is_edited_in_its_last_question_alone() -> None:
    chat = conversation(chatty(), 1, 2000, asked=40)
    assert 1800 < len(chatty().encode(chat.first)) < 2300
    behind = chat.first + "the answer<|im_end|>\n<|im_start|>user\n"
    following, edited = chat.next_turn("the answer"), chat.edited("the answer")
    assert following != edited
    for prompt in (following, edited):
        assert prompt.startswith(behind)
        assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert 30 < len(chatty().encode(prompt)) - len(chatty().encode(behind)) < 80


def test_no_two_chats_begin_alike_and_each_is_always_the_same() -> None:
    chats = [conversation(chatty(), number, 500, asked=20) for number in range(5)]
    assert len({chat.first[:40] for chat in chats}) == 5
    assert conversation(chatty(), 3, 500, asked=20) == chats[3]


def test_a_model_without_marks_is_asked_in_words() -> None:
    assert marks(Tokenizer(tiny.tokenizer().to_str())) == NO_MARKS


def test_what_was_fed_is_what_no_server_had() -> None:
    assert fed_for({"prompt_eval_count": 100, "PromptEvalCachedCount": 96}) == 4
    assert fed_for({"usage": {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 90}}}) == 10
    assert fed_for({"usage": {"prompt_tokens": 100}}) == 100


def test_each_place_is_compared_with_its_own_cold_start_round_by_round() -> None:
    def seen(cold: float, warm: float, restored: float, their_cold: float, their_warm: float) -> Round:
        return {
            "from memory": {"cold": First(cold, 100, ""), "next turn": First(warm, 10, "")},
            "from the disk": {"next turn": First(restored, 12, "")},
            "mlx_lm.server": {"cold": First(their_cold, 100, ""), "next turn": First(their_warm, 100, "")},
        }

    found = summary([seen(8, 1, 2, 16, 16), seen(4, 1, 2, 8, 4), seen(20, 1, 2, 10, 5)])
    assert found["from memory"] == {
        "cold": {"first_token_s": 8, "of_cold": 1, "fed_tokens": 100},
        "next turn": {"first_token_s": 1, "of_cold": 1 / 8, "fed_tokens": 10},
    }
    assert found["from the disk"]["next turn"] == {"first_token_s": 2, "of_cold": 0.25, "fed_tokens": 12}
    assert found["mlx_lm.server"]["next turn"] == {"first_token_s": 5, "of_cold": 0.5, "fed_tokens": 100}


@pytest.mark.slow
@pytest.mark.parametrize("name", random_models.CONFIGS)
def test_a_chat_is_kept_in_memory_and_on_the_disk(name: str, tmp_path: Path) -> None:
    model = random_models.write(name, tmp_path / name)
    done = run(model, "600", "--rounds", "1", "--prompt", "32", "--generate", "32")
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout.splitlines()[-1])["cache"]["600"]
    assert list(places) == ["from memory", "from the disk", "mlx_lm.server"]
    assert places["from memory"]["cold"]["fed_tokens"] > 600
    for place in ("from memory", "from the disk"):
        for kind in ("next turn", "regenerated", "edited"):
            assert 0 < places[place][kind]["fed_tokens"] < 64
            assert places[place][kind]["first_token_s"] > 0


def test_a_chat_beyond_the_context_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "tiny")
    command: list[str | Path] = [
        sys.executable,
        ROOT / "scripts/bench.py",
        "--model",
        model,
        "--cache",
        "512",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 1
    assert done.stderr.startswith("bench: 512 tokens and 256 more do not fit")
