"""Bodies of requests, and the grammars that they bring along."""

from __future__ import annotations

import random
from typing import Any

from schemas.drawing import drawn

from reliability import changes
from reliability.kinds import Kind
from reliability.process import Process, Reply
from reliability.replies import check_error, check_stream

SEPARATOR = b"\n\n"  # between the path of an input and its body
OPTIONS: dict[str, Any] = {
    "num_predict": 4,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "typical_p": 0.9,
    "repeat_last_n": 64,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 7,
    "stop": ["\n", "stop"],
    "logit_bias": {"65": 1.5, "66": -100},
    "num_ctx": 256,
}
COMPLETIONS: tuple[dict[str, Any], ...] = (
    {"prompt": "x", "options": {"num_predict": 4}},
    {"prompt": "Hello 日本", "options": OPTIONS, "stream": True, "return_progress": True},
    {
        "Prompt": "Hello",
        "Options": OPTIONS,
        "Logprobs": True,
        "TopLogprobs": 5,
        "Media": None,
        "Format": None,
    },
    {"prompt": "Hello", "options": OPTIONS, "stream": False, "logprobs": True, "top_logprobs": 20},
    {"prompt": "{", "options": {"num_predict": 4}, "format": "json", "includeIntermediateMetrics": True},
)
MODELS: tuple[Any, ...] = ({"model": "nowhere"}, {"model": "a/b/c:d"}, {"model": "/nowhere/at/all"}, {})
IDS: tuple[Any, ...] = ([1, 2, 3], [0, 255, 299], [])
MOST_TOKENS = 8  # of an answer with a grammar
GRAMMAR_TEXTS = (
    "[a-z]{1,8}", "(a|b)*c", "(?i)yes|no", "\\d{4}-\\d{2}", "((a+)+)+b", "a{1000}", ".*",
    "[^\\x00-\\x1f]*", "(", "a**",
    'root ::= "yes" | "no"', 'root ::= item+\nitem ::= "- " [a-z]+ "\\n"', "root ::= root", "root ::= ", "a ::= b",
    'start: "a" | "b"', "start: A+\nA: /[a-z]/", "start: start", 'start: x\nx: "a" x | ""', "start: %json {}",
    "%ignore /a/",
)  # fmt: skip


class Bodies(Kind):
    """JSON of all routes that read some."""

    name = "bodies"
    share = 4.0

    def make(self, chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.85:
            return b"/completion" + SEPARATOR + changes.json_bytes(chance, chance.choice(COMPLETIONS))
        if kind < 0.92:
            return b"/load" + SEPARATOR + changes.json_bytes(chance, chance.choice(MODELS))
        if kind < 0.96:
            return b"/v1/detokenize" + SEPARATOR + changes.json_bytes(chance, chance.choice(IDS))
        text = "".join(chance.choice(changes.TEXTS) for _ in range(chance.randint(0, 8)))
        data = text.encode(errors="surrogatepass")
        return b"/v1/tokenize" + SEPARATOR + changes.damaged(chance, data)

    def give(self, process: Process, data: bytes) -> str:
        path, _, body = data.partition(SEPARATOR)
        reply = process.ask("POST", path.decode(), body)
        if reply.status != 200:
            check_error(reply, (400, 404, 500) if path == b"/load" else (400,), self.secrets)
            return f"refused with {reply.status}"
        if path == b"/completion" and reply.content_type == "application/jsonl":
            return _ended(reply)
        return "answered"


class Grammars(Kind):
    """Schemas, expressions and grammars; each answer has a few tokens."""

    name = "grammars"
    share = 2.0

    def make(self, chance: random.Random) -> bytes:
        fields = {"prompt": "x", "format": self._format(chance), "options": {"num_predict": MOST_TOKENS}}
        if chance.random() < 0.3:
            fields["options"] = {"num_predict": MOST_TOKENS, "temperature": 1.5, "seed": 1}
        if chance.random() < 0.2:
            fields["logprobs"] = True
        return changes.spelled(fields)

    def _format(self, chance: random.Random) -> Any:
        kind = chance.random()
        if kind < 0.55:
            schema: Any = drawn(chance.getrandbits(32), 0)
            schema = changes.changed(chance, schema) if chance.random() < 0.8 else schema
            if chance.random() < 0.4:
                return {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
            return schema
        if kind < 0.6:
            return {"type": "choice", "choices": changes.changed(chance, ["yes", "no", "日本", ""])}
        text = changes.damaged(chance, chance.choice(GRAMMAR_TEXTS).encode()).decode(errors="replace")
        wanted = chance.choice(("regex", "lark", "gbnf"))
        return {"type": wanted, "pattern" if wanted == "regex" else "grammar": text}

    def give(self, process: Process, data: bytes) -> str:
        reply = process.ask("POST", "/completion", data)
        if reply.status != 200:
            check_error(reply, (400,), self.secrets)
            return f"refused with {reply.status}"
        return _ended(reply)


def _ended(reply: Reply) -> str:
    end = check_stream(reply.body)
    return f"an error in the stream: {end['Error']['error']}" if "Error" in end else "answered"
