"""A real Ollama chats with a published model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.parts.hosts import SMOLLM2_TEMPLATE, Host, import_model, thinking_template
from tests.parts.smollm2 import question

TOKENS = 36  # of the question, by its template in Jinja
CAPITAL = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_it_chats_with_smollm2(host: Host, store: Path, smollm2: Path) -> None:
    if not host.is_since("v0.34.0"):
        pytest.skip("one version is enough: what older ones do is tested with the demo model")
    import_model(store, smollm2, "smollm2", "--template", SMOLLM2_TEMPLATE)
    asked = "Why is the sky blue?"
    options = {"temperature": 0, "num_predict": 28}
    try:
        answer = host.ask("/api/chat", model="smollm2", messages=[user(asked)], options=options)
        assert "scattering" in answer["message"]["content"]
        assert answer["prompt_eval_count"] == TOKENS
        options["num_predict"] = 1
        raw = host.generate(question(asked), "smollm2", raw=True, options=options)
        assert raw["prompt_eval_cached_count"] == TOKENS - 1  # so it was the same prompt, token by token
    finally:
        host.unload()


def test_smollm2_answers_by_a_schema_at_once_or_behind_its_thinking(
    host: Host, store: Path, smollm2: Path, tmp_path: Path
) -> None:
    if not host.is_since("v0.34.4"):
        pytest.skip("hosts before v0.34.4 ask twice: once for the thinking, once for the answer")
    template = tmp_path / "thinking.gotmpl"
    template.write_text(thinking_template(SMOLLM2_TEMPLATE, "<think>", "</think>"))
    import_model(store, smollm2, "smollm2:thinks", "--template", template)

    def ask(messages: list[dict[str, str]], think: bool) -> dict[str, Any]:
        options = {"temperature": 0, "num_predict": 80}
        body = {"messages": messages, "think": think, "format": CAPITAL, "options": options}
        answer = host.ask("/api/chat", model="smollm2:thinks", **body)
        assert answer["done_reason"] == "stop"
        message: dict[str, Any] = answer["message"]
        return message

    try:
        france = user("What is the capital of France?")
        message = ask([france], think=False)
        assert json.loads(message["content"]) == {"city": "Paris", "country": "France"}
        assert "thinking" not in message
        message = ask([*_thought("Japan", "Tokyo"), *_thought("Italy", "Rome"), france], think=True)
        assert json.loads(message["content"]) == {"city": "Paris", "country": "France"}
        assert "Paris" in message["thinking"]
    finally:
        host.unload()


def _thought(country: str, city: str) -> list[dict[str, str]]:
    """A question, and an answer behind thinking: two of them show the model how it is done."""
    thinking = f"The user asks for the capital of {country}, which is {city}."
    answer = json.dumps({"city": city, "country": country})
    shown = {"role": "assistant", "thinking": thinking, "content": answer}
    return [user(f"What is the capital of {country}?"), shown]
