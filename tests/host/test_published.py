"""A real Ollama chats with a published model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts.hosts import SMOLLM2_TEMPLATE, Host, import_model
from tests.parts.smollm2 import question

TOKENS = 36  # of the question, by its template in Jinja


def test_it_chats_with_smollm2(host: Host, store: Path, smollm2: Path) -> None:
    if not host.is_since("v0.34.0"):
        pytest.skip("one version is enough: what older ones do is tested with the demo model")
    import_model(store, smollm2, "smollm2", "--template", SMOLLM2_TEMPLATE)
    asked = "Why is the sky blue?"
    options = {"temperature": 0, "num_predict": 28}
    try:
        answer = host.ask(
            "/api/chat", model="smollm2", messages=[{"role": "user", "content": asked}], options=options
        )
        assert "scattering" in answer["message"]["content"]
        assert answer["prompt_eval_count"] == TOKENS
        options["num_predict"] = 1
        raw = host.generate(question(asked), "smollm2", raw=True, options=options)
        assert raw["prompt_eval_cached_count"] == TOKENS - 1  # so it was the same prompt, token by token
    finally:
        host.unload()
