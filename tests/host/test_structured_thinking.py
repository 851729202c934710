"""Structured output behind thinking: what a real Ollama asks of our runner, and what its users get.

The demo model was never taught to think aloud. But a host takes whatever stands around .Thinking in a template for
the marks of thinking, so they can be what the model does say: `pensive` begins to think where its answer begins,
and a full stop ends its thinking.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.store.resolve import DEMO_FOLDER
from tests.parts.hosts import DEMO_TEMPLATE, Host, import_model, serving, thinking_template
from tests.parts.tap import completions, tapped

SUM = "What is 7 plus 5?"
THOUGHT, ANSWER = "7 plus 5 is 12", '{"sum": 12}'
COUNT, COUNTED = "Count down from 10.", "10, 9, 8, 7, 6, 5, 4, 3, 2, 1"
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}

PARSERS = {
    "qwen3-thinking": ["</think>"],
    "gemma4": ["<channel|>"],
    "cohere": ["<|END_THINKING|>"],
    "glimmer": ["<|start|>assistant to=user<|message|>", "<|start|>assistant<|message|>"],
}


class Watched:
    """A host that knows `pensive`, and what it sent last."""

    def __init__(self, host: Host, sent: Path) -> None:
        self.host = host
        self._sent = sent

    def format(self) -> Any:
        return completions(self._sent)[-1]["Format"]

    def chat(self, question: str, model: str = "pensive", limit: int = 60, **more: Any) -> dict[str, Any]:
        return self.host.ask("/api/chat", **_asked(question, model, limit), **more)

    def pieces(self, question: str, **more: Any) -> list[dict[str, Any]]:
        with self.host.stream("/api/chat", **_asked(question), **more) as records:
            return list(records)


def _asked(question: str, model: str = "pensive", limit: int = 60) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    options = {"temperature": 0, "num_predict": limit}
    return {"model": model, "messages": messages, "format": SCHEMA, "options": options}


@pytest.fixture(scope="module")
def watched(
    host: Host, program: Path, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    if not host.is_since("v0.34.4"):
        pytest.skip("hosts before v0.34.4 ask twice: once for the thinking, once for the answer")
    folder = tmp_path_factory.mktemp("watched")
    template = folder / "pensive.gotmpl"
    template.write_text(thinking_template(DEMO_TEMPLATE, "<|assistant|>", "."))
    import_model(store, DEMO_FOLDER, "pensive", "--template", template)
    runner, sent = tapped(folder)
    with serving(program, store, folder, runner=str(runner)) as served:
        yield Watched(served, sent)


def schema_at_once() -> dict[str, Any]:
    return {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": SCHEMA}}


def schema_behind(closes: list[str]) -> dict[str, Any]:
    """Any text, and if one of these strings comes, the schema behind it."""
    marks = [{"type": "const_string", "value": close} for close in closes]
    mark = marks[0] if len(marks) == 1 else {"type": "or", "elements": marks}
    answer = {"type": "sequence", "elements": [mark, schema_at_once()["format"]]}
    elements = [{"type": "any_text", "excludes": closes}, {"type": "optional", "content": answer}]
    return {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}


@pytest.mark.parametrize("think", [{}, {"think": True}], ids=["by default", "asked for"])
def test_the_answer_keeps_to_the_schema_behind_the_thinking(watched: Watched, think: dict[str, Any]) -> None:
    answer = watched.chat(SUM, **think)
    assert answer["message"] == {"role": "assistant", "thinking": THOUGHT, "content": ANSWER}
    assert answer["done_reason"] == "stop"
    assert watched.format() == schema_behind(["."])


def test_generated_text_has_its_thinking_too_but_a_raw_prompt_has_none(watched: Watched) -> None:
    body: dict[str, Any] = {"format": SCHEMA, "options": {"temperature": 0}}
    answer = watched.host.generate(SUM, "pensive", **body)
    assert (answer["thinking"], answer["response"]) == (THOUGHT, ANSWER)
    raw = watched.host.generate(
        f"<|user|>{SUM}<|end|><|assistant|>", "pensive", raw=True, think=False, **body
    )
    assert raw["response"] == ANSWER
    assert watched.format() == schema_at_once()


def test_thinking_comes_in_pieces_and_then_the_answer(watched: Watched) -> None:
    messages = [record["message"] for record in watched.pieces(SUM, think=True)]
    thoughts = [message.get("thinking", "") for message in messages]
    assert "".join(thoughts) == THOUGHT
    assert "".join(message["content"] for message in messages) == ANSWER
    first = next(number for number, message in enumerate(messages) if message["content"])
    assert sum(map(bool, thoughts[:first])) > 4
    assert not any(thoughts[first:])


def test_without_thinking_the_answer_comes_at_once(watched: Watched) -> None:
    assert watched.chat(SUM, think=False)["message"] == {"role": "assistant", "content": ANSWER}
    assert watched.format() == schema_at_once()


def test_an_answer_may_end_in_its_thinking(watched: Watched) -> None:
    answer = watched.chat(COUNT, think=True)
    assert answer["message"] == {"role": "assistant", "content": "", "thinking": COUNTED}
    assert answer["done_reason"] == "stop"


def test_a_limit_may_cut_the_thinking_or_the_answer(watched: Watched) -> None:
    whole = watched.chat(SUM, think=True)["eval_count"]
    for limit in range(1, whole):
        cut = watched.chat(SUM, think=True, limit=limit)
        thought, answer = cut["message"].get("thinking", ""), cut["message"]["content"]
        assert cut["done_reason"] == "length"
        assert THOUGHT.startswith(thought)
        assert ANSWER.startswith(answer)
        assert not answer or thought == THOUGHT


@pytest.mark.parametrize("parser", PARSERS)
def test_what_ends_the_thinking_of_a_known_family_is_understood(
    watched: Watched, parser: str, tmp_path: Path
) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM demo\nPARSER {parser}\n")
    watched.host.command("create", parser, "-f", str(modelfile))
    try:
        said = watched.chat(SUM, parser, think=True)
        assert watched.format() == schema_behind(PARSERS[parser])
        assert f"{THOUGHT}." in said["message"].values()  # thinking or content: the family decides
        assert said["done_reason"] == "stop"
        assert watched.chat(SUM, parser, think=False)["message"]["content"] == ANSWER
        assert watched.format() == schema_at_once()
    finally:
        watched.host.command("rm", parser)
