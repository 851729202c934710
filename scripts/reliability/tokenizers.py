"""Tokenizers put together by chance from parts that the library knows, and some that it does not.

Knows nothing about runners.
"""

from __future__ import annotations

import random
from typing import Any

PATTERNS: tuple[dict[str, str], ...] = (
    {"String": " "},
    {"String": ""},
    {"Regex": "\\s+"},
    {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"Regex": "(a+)+$"},
    {"Regex": "(a|aa)+!"},
    {"Regex": "("},
    {"Regex": ""},
    {"Regex": "a*"},
)
BEHAVIOURS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Nothing")
NORMALIZERS: tuple[Any, ...] = (
    None,
    {"type": "NFC"},
    {"type": "NFKD"},
    {"type": "Lowercase"},
    {"type": "StripAccents"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Prepend", "prepend": ""},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"},
    {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
     "lowercase": True},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Nmt"}]},
    {"type": "ByteLevel"},
)  # fmt: skip
PRE_TOKENIZERS: tuple[Any, ...] = (
    None,
    {"type": "Whitespace"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Digits", "individual_digits": True},
    {"type": "Punctuation", "behavior": "Isolated"},
    {"type": "UnicodeScripts"},
    {"type": "FixedLength", "length": 0},
    {"type": "FixedLength", "length": 3},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
)
DECODERS: tuple[Any, ...] = (
    None,
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "ByteFallback"},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                      {"type": "Fuse"},
                                      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"},
)  # fmt: skip
POST_PROCESSORS: tuple[Any, ...] = (
    None,
    {"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 2]},
    {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    },
)


def rebuilt(chance: random.Random, tokenizer: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json with some parts exchanged."""
    if chance.random() < 0.5:
        tokenizer["normalizer"] = chance.choice(NORMALIZERS)
    if chance.random() < 0.5:
        tokenizer["pre_tokenizer"] = chance.choice((*PRE_TOKENIZERS, _split(chance)))
    if chance.random() < 0.4:
        tokenizer["decoder"] = chance.choice(DECODERS)
    if chance.random() < 0.2:
        tokenizer["post_processor"] = chance.choice(POST_PROCESSORS)
    if chance.random() < 0.3:
        tokenizer["added_tokens"].append(_added(chance))
    if chance.random() < 0.4:
        tokenizer["model"] = _model(chance, tokenizer["model"])
    return tokenizer


def _split(chance: random.Random) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": chance.choice(PATTERNS),
        "behavior": chance.choice(BEHAVIOURS),
        "invert": chance.random() < 0.3,
    }


def _added(chance: random.Random) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    content = chance.choice(("<x>", "", " ", "a", "aa", "<|end|>", "日本", "<0x0A>"))
    return {"id": chance.choice((0, 255, 258, 299, 300, 10**6, 2**32 - 1)), "content": content} | {
        flag: chance.random() < 0.5 for flag in flags
    }


def _model(chance: random.Random, bpe: dict[str, Any]) -> dict[str, Any]:
    vocab = bpe["vocab"]
    match chance.randrange(6):
        case 0:
            return bpe | {"merges": [["a", "b"], ["x", "nothing"]]}
        case 1:
            merged = {pair: 258 + number for number, pair in enumerate(("ab", "bc", "cd"))}
            return bpe | {"vocab": vocab | merged, "merges": ["a b", "b c", "c d"], "byte_fallback": True}
        case 2:
            return {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100, "vocab": vocab}  # fmt: skip
        case 3:
            return {"type": "WordLevel", "unk_token": chance.choice(("a", "nothing")), "vocab": vocab}
        case 4:
            scores = [[entry, -float(number)] for entry, number in vocab.items()]
            return {
                "type": "Unigram",
                "unk_id": chance.choice((0, None, 10**6)),
                "vocab": scores,
                "byte_fallback": True,
            }
    return bpe | {
        "unk_token": chance.choice(("a", "nothing", "")),
        "dropout": chance.choice((None, 0.5, 2.0, -1.0)),
    }
