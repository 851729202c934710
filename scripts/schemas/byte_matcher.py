"""A grammar over single bytes: what texts a schema lets a model write, whatever its vocabulary."""

from __future__ import annotations

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

END = 256


class _Bytes:
    """A vocabulary of the 256 bytes, and an end."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids = (END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=END + 1, slices=[])


class CannotCompile(Exception):
    """The compiler's own reason."""


def compiled(schema: dict[str, object]) -> LLMatcher:
    """Raises CannotCompile."""
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    if matcher.is_error():
        raise CannotCompile(matcher.get_error())
    return matcher


def accepts(matcher: LLMatcher, text: str) -> bool:
    """Whether the whole text may be written, and end there. The matcher stands at its start again afterwards."""
    ids = list(text.encode())
    fed = matcher.try_consume_tokens(ids)
    ended = fed == len(ids) and matcher.is_accepting()
    matcher.reset()
    return ended
