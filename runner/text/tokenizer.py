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
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tokenizers

from runner.errors import BadModelFiles, BadRequest, RunnerError, explain
from runner.text import growth
from runner.text.ids import Json, id_sources, largest_id, valid_ids

log = logging.getLogger(__name__)

LONG_TOKENS = 8  # characters of a token in the mean; text has about four
SURE = 1.5

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
            growth.require_measure(tokenizer_json)
            self._inner = tokenizers.Tokenizer.from_str(tokenizer_json)
            self._growth = growth.Growth(self._inner.normalizer)
            self._inner.no_truncation()  # both may be stored in the file, from training
            self._inner.no_padding()
            self._rule = _bytes_rule(self._inner)
            self._known: dict[int, bytes] = {}
            self._trained = largest_id(self._inner)
            self._added = frozenset(self._inner.get_added_tokens_decoder())
        named = dict(tokenizer_config or {})
        sources = id_sources(generation_config or {}, config or {})
        self.eos_ids: frozenset[int] = frozenset(self._ids("eos", sources, named)[0])
        begins, self._begin_from = self._ids("bos", sources, named)
        self.bos_id: int | None = next(iter(begins), None)
        # Gemma 4's files list marks of images and sound here, which its text would otherwise have in it.
        self.suppressed_ids = frozenset(
            valid_ids("suppress_tokens", (generation_config or {}).get("suppress_tokens"))
        )
        self._add_bos = named.get("add_bos_token") is True
        self.size = 1 + max(self._trained, *self._added, -1)  # every id is below it

    def require_rows(self, rows: int) -> None:
        """Raises BadModelFiles if a prompt would have an id that the embedding has no row for, without anybody's
        asking for it. An added token may have one: published models have marks that only their siblings with eyes
        know, and whoever spells one out is told (`require_rows_for`).
        """
        if self._trained >= rows:
            entry = self._inner.id_to_token(self._trained)
            raise BadModelFiles(
                f"tokenizer.json: {entry!r} has the id {self._trained}, but the embedding has only {rows} rows"
            )
        if self._add_bos and self.bos_id is not None and self.bos_id >= rows:
            raise BadModelFiles(
                f"{self._begin_from} is {self.bos_id}, but the embedding has only {rows} rows"
            )
        if beyond := sorted(token for token in self._added | self.eos_ids if token >= rows):
            extra = {"count": len(beyond), "first": beyond[0], "rows": rows}
            log.warning("Tokens without a row in the embedding", extra=extra)

    def require_rows_for(self, ids: Sequence[int], rows: int) -> None:
        """Raises BadRequest if one of these ids has no row in the embedding."""
        if (largest := max(ids, default=0)) >= rows:
            entry = self._inner.id_to_token(largest)
            raise BadRequest(
                f"the prompt has the token {entry!r} with the id {largest}, but the model knows {rows} tokens only"
            )

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Token ids of the text; special tokens spelled out in it become their ids.

        A begin token goes first if the model's files ask for one and the text does not bring it; `begin` false is
        for a text that others precede. A lone surrogate counts as U+FFFD. The GIL is free while the library works.
        """
        text = _SURROGATE.sub("\ufffd", text)
        with _explained(RunnerError, "the tokenizer failed on this text"):
            self._growth.require_measure(text)
            # Only the batch call lets other threads run: encode() held the event loop for 1.9 s at 3.6 MB.
            ids: list[int] = self._inner.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if begin and self._add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def counted_above(self, text: str, limit: int) -> int:
        """How many tokens a text has at least, if it is sure to have more than `limit` of them, else 0.

        A text of 15 MB takes seconds and gigabytes to tokenize. So of one that is long for the limit a beginning is
        tokenized, then a beginning twice as long; of one that fits, nearly always nothing.
        """
        length = LONG_TOKENS * limit
        while length < len(text):
            count = len(self.encode(text[:length]))
            if count > SURE * limit:  # the cut changes a few tokens before it
                return count
            length *= 2
        return 0

    def decode(self, ids: Iterable[int], most: int | None = None) -> str:
        """The text of these tokens, nothing stripped or tidied. Raises BadRequest for more than `most` bytes."""
        text = bytearray()
        for token_id in ids:
            text += self.token_bytes(token_id)
            if most is not None and len(text) > most:
                raise BadRequest(f"the text of these tokens has more than {most} bytes; send them in parts")
        return text.decode("utf-8", "replace")

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

    def _ids(self, which: str, sources: Mapping[str, Json], named: Json) -> tuple[list[int], str]:
        """The ids of "eos" or "bos", and what says so: the first file that gives any decides."""
        for file, source in sources.items():
            if ids := valid_ids(f"{which}_token_id", source.get(f"{which}_token_id")):
                return ids, f"{file}: {which}_token_id"
        token = named.get(f"{which}_token")
        content = token.get("content") if isinstance(token, dict) else token
        token_id = self._inner.token_to_id(content) if isinstance(content, str) else None
        return [] if token_id is None else [token_id], f"tokenizer_config.json: the id of {which}_token"


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
        raise kind(f"{what}: {explain(error)}") from error


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
