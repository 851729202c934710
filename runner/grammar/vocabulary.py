"""A model's tokens as llguidance wants them: the bytes of each id, how text is cut, and which ids end an answer.

Every token but those that end is text, special ones too: a mark of the model's files may stand in a JSON string, as
with the host's own runner. A token without bytes, a padded row of the embedding for one, is never allowed, nor is a
token that is longer than llguidance takes.

Knows nothing about grammars.
"""

from __future__ import annotations

from functools import cached_property

from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from runner.text.tokenizer import Tokenizer

LONGEST = 1024  # bytes of a token; llguidance panics at longer ones, which no published vocabulary has
MARK = "\n"  # in front of a text that would otherwise get a space there; rarely part of a longer token


class Tokens(TokenizerWrapper):
    """What LLTokenizer asks for."""

    def __init__(self, tokenizer: Tokenizer, width: int, end: int) -> None:
        """width: how many logits there are; ids from the tokenizer's size on are padding."""
        ends = tokenizer.eos_ids
        spelled = [b"" if token in ends else tokenizer.token_bytes(token) for token in range(width)]
        self.tokens = [spelling if len(spelling) <= LONGEST else b"" for spelling in spelled]
        self.eos_token_id = end
        self.bos_token_id = None
        self.special_token_ids: list[int] = []
        self.is_tokenizer_wrapper = True  # llguidance looks for this mark
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """Ids whose bytes are exactly this text, cut as the model's tokenizer cuts it where it can: SentencePiece
        puts a space in front of a text, which is not there in the middle of an answer.
        """
        wanted = text.encode()
        ids = self._tokenizer.encode(text, begin=False)
        if self._spelled(ids) == wanted:
            return ids
        marked = self._tokenizer.encode(MARK + text, begin=False)
        for cut in range(1, len(marked)):
            if self._spelled(marked[cut:]) == wanted:
                return marked[cut:]
        return self._greedy(wanted)

    def _spelled(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[token] if token < len(self.tokens) else b"" for token in ids)

    def _greedy(self, text: bytes) -> list[int]:
        """The longest token first. A byte that no token spells is left out, which ends what is forced."""
        ids: list[int] = []
        while text:
            for length in range(min(len(text), self._longest), 0, -1):
                if (token := self._ids.get(text[:length])) is not None:
                    ids.append(token)
                    text = text[length:]
                    break
            else:
                break
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {spelling: token for token, spelling in enumerate(self.tokens) if spelling}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)


def build(tokenizer: Tokenizer, width: int) -> LLTokenizer | None:
    """Takes 0.1 s for 49 thousand tokens and holds the GIL all the while. None if no token can end an answer."""
    ends = sorted(token for token in tokenizer.eos_ids if token < width)
    if not ends:
        return None
    return LLTokenizer(Tokens(tokenizer, width, ends[0]), n_vocab=width, eos_token=ends)
