"""A model's tokens as the grammar sees them: byte-level and SentencePiece, added tokens, padding, ends."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, normalizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from runner.grammar.matcher import Matcher
from runner.grammar.vocabulary import Tokens, build
from runner.text.tokenizer import Tokenizer
from tests.parts import tiny
from tests.parts.fakes import tokenizer
from tests.parts.grammars import allowed

PADDED = 320


def sentencepiece() -> Tokenizer:
    """Words begin with ▁, a text gets one in front; bytes for what no entry spells."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "n",
        "a",
        "m",
        "e",
        '"',
        ":",
        "{",
    ]
    pieces += ["▁n", "na", "me", "name", "▁name", '":', '{"', "}"]
    merges = [("▁", "n"), ("n", "a"), ("m", "e"), ("na", "me"), ("▁n", "ame"), ('"', ":"), ("{", '"')]
    merges = [pair for pair in merges if all(part in pieces for part in pair)]
    made = Library(
        BPE(
            {piece: number for number, piece in enumerate(pieces)},
            merges,
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken("</s>", special=True)])
    return Tokenizer(made.to_str(), generation_config={"eos_token_id": 1})


def matcher(coder: Tokenizer, grammar: str, width: int = PADDED) -> Matcher:
    from llguidance import LLMatcher

    vocabulary = build(coder, width)
    assert vocabulary is not None
    return Matcher(LLMatcher(vocabulary, grammar))


@pytest.mark.parametrize("coder", [tokenizer(), sentencepiece()], ids=["byte-level", "sentencepiece"])
@pytest.mark.parametrize("text", ["name", " name", '{"name":', "é☃", "x\n", "  ", '"'])
def test_text_is_cut_into_tokens_that_spell_it_exactly(coder: Tokenizer, text: str) -> None:
    tokens = Tokens(coder, PADDED, 0)
    assert b"".join(tokens.tokens[token] for token in tokens(text)) == text.encode()


def test_text_in_the_middle_gets_no_space_in_front() -> None:
    coder = sentencepiece()
    assert coder.decode(coder.encode("name")) == " name"  # what the library does at a text's beginning
    assert [coder.piece(token) for token in Tokens(coder, PADDED, 1)("name")] == ["name"]


def test_a_vocabulary_without_that_text_is_cut_as_far_as_it_goes() -> None:
    made = Library(BPE({"a": 0, "ab": 1, "x": 2}, []))
    coder = Tokenizer(made.to_str(), generation_config={"eos_token_id": 2})
    assert Tokens(coder, 3, 2)("abaZa") == [1, 0]


def test_padding_and_tokens_without_bytes_are_never_allowed() -> None:
    coder = tokenizer()
    may = allowed(matcher(coder, "start: /(?s:.)*/"))
    assert may == {token for token in range(coder.size) if coder.token_bytes(token)[:1] < b"\xf8"} - {
        token
        for token in range(coder.size)
        if coder.token_bytes(token)[:1] in {bytes([b]) for b in (*range(0x80, 0xC2), *range(0xF5, 0x100))}
    }


def test_a_token_that_is_longer_than_llguidance_takes_is_never_allowed() -> None:
    coder = tokenizer(more=["a" * 1024, "b" * 1025])
    found = allowed(matcher(coder, "start: /[ab]+/"))
    assert coder.encode("a" * 1024)[0] in found
    assert coder.encode("b" * 1025)[0] not in found


def test_an_end_is_no_text_even_if_its_spelling_would_be() -> None:
    found = matcher(tokenizer(), f'start: /.*/ "{tiny.BOS}"')
    assert tiny.EOS_ID not in allowed(found)
    assert tiny.BOS_ID in allowed(found)  # any other special token is text


def test_every_end_of_a_model_with_several_is_allowed_where_the_grammar_is_done() -> None:
    coder = tokenizer(eos=[tiny.EOS_ID, tiny.BOS_ID])
    found = matcher(coder, 'start: "a"')
    assert not {tiny.EOS_ID, tiny.BOS_ID} & allowed(found)
    found.accept(coder.encode("a")[0])
    assert allowed(found) == {tiny.EOS_ID, tiny.BOS_ID}


def test_two_tokens_of_the_same_bytes_are_both_allowed() -> None:
    coder = sentencepiece()
    same = [token for token in range(coder.size) if coder.token_bytes(token) == b"a"]
    assert len(same) == 2
    assert set(same) < allowed(matcher(coder, "start: /[ab]/"))


def test_a_model_that_cannot_end_has_no_vocabulary() -> None:
    assert build(tokenizer(eos=299), 299) is None
