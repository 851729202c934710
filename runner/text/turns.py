"""Where the last turn of a user begins in a prompt, as its tokens show it.

A prompt comes as text that a host's template has written, so turns are known only by their marks: a token of its
own, and behind it whose turn it is. A template that has other marks shows no turns; then nobody can tell.

Knows nothing about models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.text.tokenizer import Tokenizer

MARKS = (
    ("<|im_start|>", "user"),  # ChatML: Qwen, SmolLM
    ("<start_of_turn>", "user"),  # Gemma
    ("<|turn>", "user"),  # Gemma 4
    ("<|start|>", "user"),  # gpt-oss
    ("<|start_header_id|>", "user"),  # Llama 3
    ("<|start_of_role|>", "user"),  # Granite
    ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),  # Command R
    ("<|user|>", ""),  # GLM, Phi
    ("[INST]", ""),  # Mistral
)


class Turns:
    """Finds them by the marks that a model's vocabulary has."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._roles: dict[int, str] = {}
        for mark, role in MARKS:
            ids = tokenizer.encode(mark, begin=False)
            if len(ids) == 1:
                self._roles[ids[0]] = role

    def start(self, prompt: Sequence[int]) -> int | None:
        """The position of the last mark of a user's turn; None if there is none."""
        if not self._roles:
            return None
        for position in range(len(prompt) - 1, -1, -1):
            role = self._roles.get(prompt[position])
            if role is not None and self._reads(prompt[position + 1 :][: len(role)], role):
                return position
        return None

    def _reads(self, ids: Sequence[int], role: str) -> bool:
        """A token has at least one byte, so as many tokens as letters are enough."""
        return self._tokenizer.decode(ids).startswith(role)
