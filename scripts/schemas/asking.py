"""A model asked for an answer to a schema, and what its matcher saw.

Knows nothing about what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llguidance import LLMatcher

from runner.errors import RunnerError
from runner.generation.alone import complete
from runner.grammar.compiler import Grammars
from runner.grammar.matcher import Matcher
from runner.grammar.vocabulary import Tokens
from runner.loading.loaded_model import LoadedModel
from runner.text.tokenizer import Tokenizer
from runner.types import Chunk, Done, Failed, GenerateRequest, Grammar, SamplingOptions

QUESTION = "Answer with JSON that is valid under this JSON schema: "
# What a user's only message stands between, by a mark of the model's vocabulary.
CHATS = {
    "<|im_start|>": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "<|assistant|>": ("<|begin|><|user|>", "<|end|><|assistant|>"),
}


@dataclass(frozen=True)
class Answer:
    """reason: how it ended; "failed" with the message in `text`. forced: tokens that came without a draw."""

    text: str
    reason: str
    tokens: tuple[int, ...] = ()
    forced: int = 0
    generate_ns: int = 0


@dataclass
class Seen:
    """What went through the matcher of one answer; `certain` of the next tokens come without a draw."""

    tokens: list[int] = field(default_factory=list)
    certain: int = 0
    forced: int = 0


class SeenMatcher(Matcher):
    """A Matcher that notes what it accepts."""

    def __init__(self, inner: LLMatcher, seen: Seen) -> None:
        super().__init__(inner)
        self._seen = seen

    def accept(self, token: int) -> None:
        super().accept(token)
        seen = self._seen
        seen.tokens.append(token)
        if seen.certain > 0:
            seen.certain -= 1
            seen.forced += 1

    def forced(self) -> list[int]:
        certain = super().forced()
        self._seen.certain = len(certain)
        return certain


class SeenGrammars(Grammars):
    """Grammars whose matchers note what they accept: `seen` is that of the last one."""

    seen = Seen()

    def matcher(self, grammar: Grammar) -> Matcher:
        self.seen = Seen()
        return SeenMatcher(self._compiled(grammar).deep_copy(), self.seen)


class Asked:
    """One model that is asked again and again."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._grammars = SeenGrammars(loaded.tokenizer, loaded.model.vocab_size)
        self._loaded = replace(loaded, grammars=self._grammars)
        end = min(loaded.tokenizer.eos_ids)
        self._tokens = Tokens(loaded.tokenizer, loaded.model.vocab_size, end)

    def answer(self, schema: str, limit: int, sampling: SamplingOptions) -> Answer:
        """A schema that is refused gives an answer that failed."""
        prompt = question(self._loaded.tokenizer, QUESTION + schema)
        request = GenerateRequest(prompt, limit, sampling, grammar=grammar_of(schema))
        try:
            events = complete(self._loaded, request)
        except RunnerError as error:
            return Answer(str(error), "failed")
        end, seen = events[-1], self._grammars.seen
        if isinstance(end, Failed):
            return Answer(end.message, "failed")
        assert isinstance(end, Done)
        text = "".join(event.text for event in events if isinstance(event, Chunk))
        tokens = tuple(token for token in seen.tokens if token not in self._loaded.tokenizer.eos_ids)
        return Answer(text, end.reason, tokens, seen.forced, end.usage.generate_ns)

    def spelled(self, tokens: Sequence[int]) -> str:
        """Their text."""
        return self._loaded.tokenizer.decode(tokens)

    def may_begin(self, schema: str, text: str) -> bool:
        """Whether a fresh matcher accepts the text, cut anew into tokens."""
        matcher = self._loaded.grammars.matcher(grammar_of(schema))
        try:
            for token in self._tokens(text):
                matcher.accept(token)
        except RunnerError:
            return False
        return True


def grammar_of(schema: str) -> Grammar:
    """As a direct client's."""
    return Grammar("json_schema", schema)


def question(tokenizer: Tokenizer, text: str) -> str:
    """A user's only message in the format that the model's marks tell, else the text alone."""
    for mark, (before, behind) in CHATS.items():
        if len(tokenizer.encode(mark, begin=False)) == 1:
            return before + text + behind
    return text + "\n"
