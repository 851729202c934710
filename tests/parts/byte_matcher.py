"""A grammar over single bytes: which texts a schema lets a model write, whatever its vocabulary."""

from __future__ import annotations

import random

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from runner.schemas.prepare import prepare

END = 256
CLOSING = b'"}]'


class _Bytes:
    """A vocabulary of the 256 bytes, and an end."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids = (END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=END + 1, slices=[])


def compiled(schema: object, lenient: bool = False) -> LLMatcher:
    """What the compiler refuses is a ValueError with its reason."""
    grammar = LLMatcher.grammar_from_json_schema(prepare(schema, lenient).schema)
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    assert matcher.get_grammar_warnings() == []  # it has overlooked nothing
    return matcher


def accepts(schema: object, text: str, lenient: bool = False) -> bool:
    """Whether the whole text may be written, and end there."""
    matcher = compiled(schema, lenient)
    ids = list(text.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def allowed(matcher: LLMatcher) -> list[int]:
    """The ids that may come next."""
    mask = matcher.compute_bitmask()
    return [token for token in range(END + 1) if mask[token // 8] >> (token % 8) & 1]


def walk(matcher: LLMatcher, chance: random.Random, longest: int) -> str | None:
    """A text by chance, or None where it would be longer. Brackets and quotes close more often than they open."""
    written = bytearray()
    while len(written) < longest:
        ids = allowed(matcher)
        assert ids, f"nothing may come after {bytes(written)!r}: {matcher.get_error()}"
        closing = [token for token in ids if token == END or token in CLOSING]
        token = chance.choice(closing if closing and chance.random() < 0.4 else ids)
        if token == END:
            return written.decode()
        assert matcher.consume_token(token)
        written.append(token)
    return None
