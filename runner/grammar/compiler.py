"""Grammars become matchers: one compiler for each model that is loaded.

Compiling happens off the MLX thread and off the event loop, and the request is queued behind it: a grammar that
cannot be enforced is refused before anything was sent. What was compiled is kept, and each answer gets a copy
(some 20 microseconds). llguidance's limits bound what a hostile grammar may cost.

Safe on any thread. llguidance is imported by the first use.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from runner.errors import BadGrammar, GrammarUnavailable
from runner.text.tokenizer import Tokenizer
from runner.types import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from runner.grammar.matcher import Matcher

log = logging.getLogger(__name__)

KEPT = 64  # compiled grammars
KEPT_TEXT = 4 << 20  # characters of their texts, which stand for their size
REASON_AT_MOST = 400  # characters of llguidance's reason


class Grammars:
    """The compiled grammars of one model."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        """width: how many logits the model has."""
        self._tokenizer = tokenizer
        self._width = width
        self._vocabulary: LLTokenizer | None = None
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._compiling = threading.Lock()
        self._keeping = threading.Lock()

    def prepare_ahead(self) -> None:
        """Read the vocabulary on a thread of its own, so that the first grammar does not wait for it."""
        threading.Thread(target=self._try_vocabulary, name="grammar", daemon=True).start()

    def compile(self, grammar: Grammar) -> None:
        """Have it at hand. Raises BadGrammar or GrammarUnavailable; takes up to two seconds."""
        self._compiled(grammar)

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at its beginning. As `compile`, if it is not at hand any more."""
        from runner.grammar.matcher import Matcher

        return Matcher(self._compiled(grammar).deep_copy())

    def _compiled(self, grammar: Grammar) -> LLMatcher:
        if (known := self._known(grammar)) is not None:
            return known
        with self._compiling:
            if (known := self._known(grammar)) is not None:
                return known
            made = self._make(grammar)
        with self._keeping:
            self._kept[grammar] = made
            while len(self._kept) > KEPT or (len(self._kept) > 1 and self._text() > KEPT_TEXT):
                self._kept.popitem(last=False)
        return made

    def _known(self, grammar: Grammar) -> LLMatcher | None:
        with self._keeping:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
            return self._kept.get(grammar)

    def _text(self) -> int:
        return sum(len(grammar.text) for grammar in self._kept)

    def _make(self, grammar: Grammar) -> LLMatcher:
        vocabulary = self._read_vocabulary()
        from llguidance import LLMatcher, LLParserLimits

        from runner.grammar.source import source

        # Each optional key of an object takes four items of a row: llguidance's own 2,000 are soon used up.
        limits = LLParserLimits(max_items_in_row=20_000, verbose_errors=False)
        made = LLMatcher(vocabulary, source(grammar), log_level=0, limits=limits)
        if made.is_error():
            raise BadGrammar(_reason(made.get_error()))
        begun = made.deep_copy()
        begun.compute_bitmask()
        if begun.is_error():  # llguidance learns it here: nothing may come first, not even an end
            raise BadGrammar("no text fits it")
        return made

    def _read_vocabulary(self) -> LLTokenizer:
        """Called with `_compiling` held."""
        if self._vocabulary is None:
            try:
                from runner.grammar.vocabulary import build
            except ImportError as error:
                log.warning("Structured output is unavailable", extra={"error": str(error)})
                raise GrammarUnavailable from None
            self._vocabulary = build(self._tokenizer, self._width)
        if self._vocabulary is None:
            raise GrammarUnavailable
        return self._vocabulary

    def _try_vocabulary(self) -> None:
        with self._compiling, contextlib.suppress(GrammarUnavailable):  # whoever asks for a grammar is told
            self._read_vocabulary()


def _reason(error: str) -> str:
    """llguidance's error as one line."""
    return " ".join(error.split())[:REASON_AT_MOST]
