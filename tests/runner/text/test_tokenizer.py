"""Ids and bytes of three kinds of tokenizer, all built here."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from runner.errors import BadModelFiles, BadRequest
from runner.text.detokenizer import Detokenizer
from runner.text.tokenizer import Tokenizer

DEEP = "<\uff5ca▁b\uff5c>"  # full-width bars, as DeepSeek has them
UNHURRIED = settings(deadline=None)  # the first call starts the library's threads
TEXTS = [
    "hello world, hello again",
    "👨‍👩‍👧‍👦 and 🇯🇵",
    "e\u0301 ạ̊ นํ้า",
    "日本語の文章を書く",
    "السَّلَامُ عَلَيْكُم",
    "a\ufffdb\ufffd",
    "  indented\n\n\tcode\x00nul",
]


def byte_level() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS * 3, trainer)
    inner.add_special_tokens(["<|begin|>", "<|end|>", DEEP])
    inner.add_tokens([AddedToken("éà", normalized=False), AddedToken("<think>", normalized=False)])
    return inner


def sentencepiece(*, strip: bool = True) -> tokenizers.Tokenizer:
    vocab = {entry: i for i, entry in enumerate(["<unk>", "<s>", "</s>", "▁▁"])}
    entries = [f"<0x{byte:02X}>" for byte in range(256)] + list("▁abehlo日") + ["▁h", "he"]
    vocab |= {entry: len(vocab) + i for i, entry in enumerate(entries)}
    bpe = models.BPE(vocab, [("▁", "h"), ("h", "e")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    inner = tokenizers.Tokenizer(bpe)
    inner.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.add_tokens([AddedToken("▁▁", normalized=False)])
    return inner


def ours(inner: tokenizers.Tokenizer, **files: Any) -> Tokenizer:
    return Tokenizer(inner.to_str(), **files)


BYTE_LEVEL, SENTENCEPIECE = byte_level(), sentencepiece(strip=False)
OURS_BYTE_LEVEL, OURS_SENTENCEPIECE = ours(BYTE_LEVEL), ours(SENTENCEPIECE)
BYTE_IDS = [i for i in range(BYTE_LEVEL.get_vocab_size()) if OURS_BYTE_LEVEL.piece(i) != "éà"]


def id_of(inner: tokenizers.Tokenizer, entry: str) -> int:
    token_id = inner.token_to_id(entry)
    assert token_id is not None
    return token_id


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.feed, ids)) + detokenizer.flush()


@pytest.mark.parametrize("tokenizer", [OURS_BYTE_LEVEL, OURS_SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_encoding_and_streaming(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert streamed(tokenizer, ids) == text


@UNHURRIED
@given(st.lists(st.sampled_from(BYTE_IDS), max_size=12))
def test_byte_level_streaming_equals_the_library_for_any_tokens(ids: list[int]) -> None:
    # Any tokens: most sequences are invalid UTF-8.
    whole = BYTE_LEVEL.decode(ids, skip_special_tokens=False)
    assert streamed(OURS_BYTE_LEVEL, ids) == OURS_BYTE_LEVEL.decode(ids) == whole


@UNHURRIED
@given(st.text(max_size=12))
def test_sentencepiece_streaming_equals_the_library_for_any_text(text: str) -> None:
    ids = OURS_SENTENCEPIECE.encode(text)
    assert ids == SENTENCEPIECE.encode(text).ids
    assert streamed(OURS_SENTENCEPIECE, ids) == SENTENCEPIECE.decode(ids, skip_special_tokens=False)


def test_sentencepiece_keeps_valid_characters_beside_an_invalid_byte() -> None:
    # The library gives U+FFFD for every byte of such a run.
    ids = [id_of(SENTENCEPIECE, f"<0x{byte:02X}>") for byte in [*"é".encode(), 0xFF]]
    assert OURS_SENTENCEPIECE.decode(ids) == "é\ufffd"


def test_the_first_space_of_an_answer_is_kept() -> None:
    tokenizer = ours(sentencepiece())
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"


def test_metaspace_is_a_space() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"▁to": 0, "▁be": 1}, unk_token="▁to"))
    inner.decoder = decoders.Metaspace()
    assert ours(inner).decode([0, 1]) == " to be"


def test_another_decoder_is_asked_token_by_token() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"to</w>": 0, "be</w>": 1}, unk_token="to</w>"))
    inner.decoder = decoders.Sequence([decoders.Replace(tokenizers.Regex("</w>$"), "_")])
    assert ours(inner).decode([0, 1]) == "to_be_"


@pytest.mark.parametrize("content", ["<|begin|>", DEEP, "éà", "<think>"])
def test_an_added_token_is_one_id_and_its_own_text(content: str) -> None:
    ids = OURS_BYTE_LEVEL.encode(f"a{content}b")
    assert id_of(BYTE_LEVEL, content) in ids
    assert OURS_BYTE_LEVEL.decode(ids) == f"a{content}b"


def test_an_added_run_of_sentencepiece_spaces_is_spaces() -> None:
    assert OURS_SENTENCEPIECE.token_bytes(id_of(SENTENCEPIECE, "▁▁")) == b"  "


def test_every_byte_has_a_token_of_its_own() -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    spelled = {OURS_BYTE_LEVEL.token_bytes(id_of(BYTE_LEVEL, char)) for char in alphabet}
    assert spelled == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("outside", [-1, 10**6, 2**40])
def test_an_id_outside_the_vocabulary_is_no_bytes(outside: int) -> None:
    assert OURS_BYTE_LEVEL.token_bytes(outside) == b""
    assert OURS_BYTE_LEVEL.piece(outside) == ""


def test_a_piece_of_a_character_shows_as_replacement() -> None:
    assert OURS_BYTE_LEVEL.piece(id_of(BYTE_LEVEL, "æ")) == "\ufffd"


def test_lone_surrogates_are_replaced_before_encoding() -> None:
    assert OURS_BYTE_LEVEL.encode("a\ud800b") == OURS_BYTE_LEVEL.encode("a\ufffdb")


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    inner = byte_level()
    inner.enable_truncation(2)
    inner.enable_padding(length=40)
    text = TEXTS[1]
    assert ours(inner).encode(text) == OURS_BYTE_LEVEL.encode(text)


def test_size_counts_added_tokens() -> None:
    assert OURS_BYTE_LEVEL.size == len(BYTE_LEVEL.get_vocab())


def test_bos_goes_first_only_where_the_files_ask_for_it() -> None:
    bos = id_of(BYTE_LEVEL, "<|begin|>")
    asked = ours(BYTE_LEVEL, tokenizer_config={"add_bos_token": True, "bos_token": "<|begin|>"})
    assert asked.bos_id == bos
    assert asked.encode("hello")[0] == bos
    assert asked.encode("") == [bos]
    assert asked.encode("<|begin|>hello").count(bos) == 1
    silent = ours(BYTE_LEVEL, tokenizer_config={"bos_token": "<|begin|>"})
    assert silent.bos_id == bos
    assert bos not in silent.encode("hello")
    assert ours(BYTE_LEVEL, tokenizer_config={"add_bos_token": True}).encode("") == []


NAMED = {"eos_token": {"content": "<|end|>"}, "bos_token": "<|begin|>"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [7, 8]}, "config": {"eos_token_id": 9}}, {7, 8}),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 9}}, {9}),
        ({"generation_config": {"eos_token_id": []}, "config": {"text_config": {"eos_token_id": 4}}}, {4}),
        ({"config": {"eos_token_id": 0}, "tokenizer_config": NAMED}, {0}),
        ({"tokenizer_config": NAMED}, {id_of(BYTE_LEVEL, "<|end|>")}),
        ({"tokenizer_config": {"eos_token": "not a token"}}, set()),
        ({}, set()),
    ],
)
def test_the_first_file_with_an_eos_decides(files: dict[str, Any], expected: set[int]) -> None:
    assert ours(BYTE_LEVEL, **files).eos_ids == expected


def test_what_generation_suppresses_is_read_from_its_file_only() -> None:
    assert ours(BYTE_LEVEL, generation_config={"suppress_tokens": [9, 7]}).suppressed_ids == {7, 9}
    for files in ({}, {"generation_config": {"suppress_tokens": None}}, {"config": {"suppress_tokens": [7]}}):
        assert ours(BYTE_LEVEL, **files).suppressed_ids == frozenset()
    with pytest.raises(BadModelFiles, match="suppress_tokens is not a token id: '-1'"):
        ours(BYTE_LEVEL, generation_config={"suppress_tokens": [7, -1]})


@pytest.mark.parametrize("wrong", ["2", True, -1, 1.5, [1, None], {"id": 1}])
def test_an_eos_that_is_no_id_is_refused(wrong: Any) -> None:
    with pytest.raises(BadModelFiles, match="eos_token_id is not a token id"):
        ours(BYTE_LEVEL, config={"eos_token_id": wrong})


def panicking() -> str:
    """A file that the library answers with a panic rather than an error."""
    document = json.loads(BYTE_LEVEL.to_str())
    document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    return json.dumps(document)


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[]", '{"model": {"type": "BPE", "vocab": 3}}', panicking()]
)
def test_an_unusable_file_is_one_line(text: str) -> None:
    with pytest.raises(BadModelFiles, match=r"tokenizer.json cannot be read: .") as caught:
        Tokenizer(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


class Noting(Tokenizer):
    """Notes how much it was given to tokenize."""

    noted = 0

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        self.noted += len(text)
        return super().encode(text, begin=begin)


@UNHURRIED
@given(st.lists(st.sampled_from(["hello ", "日本", " " * 40, "a", "\n"]), max_size=60), st.integers(1, 60))
def test_a_text_is_said_to_be_too_long_only_if_it_is(parts: list[str], limit: int) -> None:
    text = "".join(parts)
    for tokenizer in (OURS_BYTE_LEVEL, OURS_SENTENCEPIECE):
        counted = tokenizer.counted_above(text, limit)
        assert counted == 0 or min(counted, len(tokenizer.encode(text))) > limit


def test_of_a_text_that_is_far_too_long_only_the_beginning_is_tokenized() -> None:
    tokenizer = Noting(BYTE_LEVEL.to_str())
    assert tokenizer.counted_above("hello world " * 100_000, 100) > 100
    assert tokenizer.noted == 800
    assert tokenizer.counted_above(" " * 10_000 + "hello world " * 100_000, 5000) > 5000
    assert tokenizer.noted < 100_000
    tokenizer.noted = 0
    assert tokenizer.counted_above("hello world " * 60, 100) == 0
    assert tokenizer.noted == 0


def test_a_text_of_more_bytes_than_asked_for_is_not_made() -> None:
    ids = OURS_BYTE_LEVEL.encode("hello")
    assert OURS_BYTE_LEVEL.decode(ids, 5) == "hello"
    with pytest.raises(BadRequest, match="more than 4 bytes"):
        OURS_BYTE_LEVEL.decode(ids, 4)
