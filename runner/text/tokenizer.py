"""Text to token ids, and each token id to the bytes it stands for.

Output is defined on bytes: the text of a run of tokens is the UTF-8 decoding of their joined bytes, U+FFFD
for what is invalid. The library's own streaming decoder (`tokenizers.decoders.DecodeStream`, 0.23) will not
do. It has no flush, so a tail that ends in U+FFFD, a real one included, is lost; it raises "Invalid prefix"
when an invalid byte follows a character spelled in bytes; its time grows with the square of a run of invalid
bytes; and a grammar needs the raw bytes anyway.

Every token but end-of-sequence is text, special ones too: the host finds thinking and tool calls by them.

Knows nothing about files, arrays or requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tokenizers

from runner.errors import BadModelFiles, RunnerError

Json = Mapping[str, Any]
BytesRule = Callable[[int, str], bytes]  # token id, vocabulary entry -> bytes


class Tokenizer:
    """One model's tokenizer, built from the contents of its files; only tokenizer.json has to be there.

    Raises BadModelFiles if tokenizer.json cannot be used or an end, begin or suppressed id is not an id. An id
    outside the vocabulary (embedding tables are padded) is no error: it stands for no bytes.
    """

    def __init__(
        self,
        tokenizer_json: str,
        tokenizer_config: Json | None = None,
        generation_config: Json | None = None,
        config: Json | None = None,
    ) -> None:
        with _explained(BadModelFiles, "tokenizer.json cannot be read"):
            self._inner = tokenizers.Tokenizer.from_str(tokenizer_json)
            self._inner.no_truncation()  # both may be stored in the file, from training
            self._inner.no_padding()
            self._rule = _bytes_rule(self._inner)
        self._known: dict[int, bytes] = {}
        named = dict(tokenizer_config or {})
        sources = _id_sources(generation_config or {}, config or {})
        self.eos_ids: frozenset[int] = frozenset(self._ids("eos", sources, named))
        self.bos_id: int | None = next(iter(self._ids("bos", sources, named)), None)
        # Gemma 4's files list marks of images and sound here, which its text would otherwise have in it.
        self.suppressed_ids = frozenset(
            _valid_ids("suppress_tokens", (generation_config or {}).get("suppress_tokens"))
        )
        self._add_bos = named.get("add_bos_token") is True
        self.size: int = self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Token ids of the text; special tokens spelled out in it become their ids.

        A begin token goes first if the model's files ask for one and the text does not bring it; `begin` false is
        for a text that others precede. A lone surrogate counts as U+FFFD. The GIL is free while the library works.
        """
        text = _SURROGATE.sub("\ufffd", text)
        with _explained(RunnerError, "the tokenizer failed on this text"):
            # Only the batch call lets other threads run: encode() held the event loop for 1.9 s at 3.6 MB.
            ids: list[int] = self._inner.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if begin and self._add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens, nothing stripped or tidied."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def piece(self, token_id: int) -> str:
        """The text of one token alone: U+FFFD where it holds only part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What this token adds to the output; b"" for an id outside the vocabulary."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._worked_out(token_id)
        return known

    def _worked_out(self, token_id: int) -> bytes:
        entry = self._inner.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return b"" if entry is None else self._rule(token_id, entry)

    def _ids(self, which: str, sources: Sequence[Json], named: Json) -> list[int]:
        """The ids of "eos" or "bos": the first file that gives any decides."""
        for source in sources:
            if ids := _valid_ids(f"{which}_token_id", source.get(f"{which}_token_id")):
                return ids
        token = named.get(f"{which}_token")
        content = token.get("content") if isinstance(token, dict) else token
        token_id = self._inner.token_to_id(content) if isinstance(content, str) else None
        return [] if token_id is None else [token_id]


_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_ENTRY = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE_STEPS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


@contextmanager
def _explained(kind: type[RunnerError], what: str) -> Iterator[None]:
    """Turns whatever the library raises into one line of ours."""
    try:
        yield
    except (RunnerError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust side is no Exception
        reason = " ".join(str(error).split())[:300]
        raise kind(f"{what}: {reason or type(error).__name__}") from error


def _id_sources(generation_config: Json, config: Json) -> list[Json]:
    inner = config.get("text_config")  # where models that also see or hear keep it
    return [generation_config, config, *([inner] if isinstance(inner, dict) else [])]


def _valid_ids(field: str, value: Any) -> list[int]:
    """None, an id or a list of ids, as model files have it."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise BadModelFiles(f"{field} is not a token id: {str(token_id)[:60]!r}")
    return ids


def _bytes_rule(inner: tokenizers.Tokenizer) -> BytesRule:
    """How vocabulary entries spell bytes, told by the decoder that tokenizer.json declares."""
    steps = _decoder_steps(inner)
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        plain = _added_later(inner)
        return lambda token_id, entry: entry.encode() if token_id in plain else _alphabet_bytes(entry)
    if kinds and kinds <= _SENTENCEPIECE_STEPS and all("String" in s.get("pattern", "String") for s in steps):
        # Added tokens too: Gemma's are runs of ▁. Strip is left out, since output continues a prompt.
        return _sentencepiece_rule(steps)
    return lambda token_id, entry: inner.decode([token_id], skip_special_tokens=False).encode()


def _added_later(inner: tokenizers.Tokenizer) -> set[int]:
    """Added tokens that the trained vocabulary lacks. They are written as text, not in the alphabet."""
    added = inner.get_added_tokens_decoder()
    return {i for i, token in added.items() if inner.model.token_to_id(token.content) is None}


def _decoder_steps(inner: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    # The pickled state is the decoder's part of tokenizer.json: parsing the whole file again would hold the
    # GIL for a quarter of a second.
    state = json.loads(inner.decoder.__getstate__()) if inner.decoder is not None else None
    return _flat(state)


def _flat(step: Any) -> list[dict[str, Any]]:
    if step is None:
        return []
    return [s for part in step["decoders"] for s in _flat(part)] if step["type"] == "Sequence" else [step]


def _sentencepiece_rule(steps: Sequence[Json]) -> BytesRule:
    """ "▁" is a space, "<0x0A>" a byte, anything else itself."""
    swaps = [(s["pattern"]["String"], s["content"]) for s in steps if s["type"] == "Replace"]
    swaps += [(s["replacement"], " ") for s in steps if s["type"] == "Metaspace"]
    fallback = any(s["type"] == "ByteFallback" for s in steps)

    def rule(_: int, entry: str) -> bytes:
        if fallback and (byte := _BYTE_ENTRY.fullmatch(entry)):
            return bytes.fromhex(byte[1])
        for old, new in swaps:
            entry = entry.replace(old, new)
        return entry.encode()

    return rule


def _alphabet() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 is itself, the other 68 bytes are U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + i): b for i, b in enumerate(shifted)}


_ALPHABET = _alphabet()


def _alphabet_bytes(entry: str) -> bytes:
    try:
        return bytes([_ALPHABET[char] for char in entry])
    except KeyError:  # not spelled in the alphabet: the library takes such an entry as plain text
        return entry.encode()
