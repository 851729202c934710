"""A Grammar as llguidance reads it: its dialect of Lark, or its JSON.

Free text that a host allows in front of an answer (thinking) is two lexemes. FREE is text without any of the
closing strings, and the answer may end with it; CLOSED is text up to the first closing string, and the schema
holds behind it. What is matched are bytes, so one token may hold the end of the thinking and the beginning of the
answer.
"""

from __future__ import annotations

import json
import logging
import re

from llguidance import LLMatcher

from runner.errors import BadGrammar
from runner.schemas.prepare import prepare
from runner.types import Grammar

log = logging.getLogger(__name__)

LONGEST_GBNF = 1 << 17  # characters; the translation to Lark, in Python, takes 1.2 s for a million

LATE_CONTROLS = re.compile("[\x7f-\x9f]")

BEHIND = r"""start: FREE | CLOSED answer
ANY: /[\s\S]*/
CLOSE: {closes}
FREE: ANY & ~(ANY CLOSE ANY)
CLOSED: (ANY CLOSE) & ~(ANY CLOSE ANY /[\s\S]/)
answer: %json {schema}
"""


def source(grammar: Grammar) -> str:
    """Raises BadGrammar for what can be told before compiling."""
    match grammar.kind:
        case "json_schema":
            return _schema(grammar)
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "choice":
            return "start: " + " | ".join(map(_quoted, json.loads(grammar.text)))
        case "gbnf":
            return _lark(grammar.text)
        case "lark":
            return grammar.text


def _schema(grammar: Grammar) -> str:
    prepared = prepare(json.loads(grammar.text), grammar.lenient)
    if prepared.unenforced:
        log.warning("Schema keywords not enforced", extra={"keywords": ",".join(prepared.unenforced)})
    schema = json.dumps(prepared.schema)
    if not grammar.close:
        return f"start: %json {schema}\n"
    return BEHIND.format(closes=" | ".join(map(_quoted, grammar.close)), schema=schema)


def _lark(gbnf: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if len(gbnf) > LONGEST_GBNF:
        raise BadGrammar(f"the GBNF grammar has {len(gbnf)} characters; the limit is {LONGEST_GBNF}")
    try:
        return gbnf_to_lark(gbnf)
    except Exception as error:  # noqa: BLE001  # the translator raises nothing more special for an unknown rule
        raise BadGrammar(" ".join(str(error).split())) from None


def _quoted(text: str) -> str:
    """A string of Lark: one of JSON, in which DEL and the controls behind it are spelled out too."""
    return LATE_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
