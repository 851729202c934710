"""What crosses the line between the event loop and the MLX thread: plain frozen values, no arrays. What is made for
every token is a tuple, which costs half.

One request goes in as a GenerateRequest; Events come out, in this order and no other:

    Started  Progress*  Chunk*  (Done | Failed)        or        Failed

Knows nothing about anything else in this project: standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen. The defaults switch every step off: greedy decoding.

    temperature <= 0: greedy. top_k <= 0 or >= the vocabulary: off. top_p, typical_p outside (0, 1): off.
    min_p outside (0, 1]: off. repeat_penalty <= 0 or 1: off. repeat_last_n: how many of the last tokens the
    penalties look at; -1 is the whole context, 0 switches them off. seed None: drawn from system entropy.
    logit_bias: pairs of (token id, value added to its raw logit).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    typical_p: float = 0.0
    repeat_last_n: int = 0
    repeat_penalty: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like, as whoever asked wrote it.

    text: a JSON schema, a regular expression, a grammar in llguidance's Lark or in llama.cpp's GBNF, or a JSON
    array of the strings to choose from. close: a schema's answer may begin with free text, and behind the first of
    these strings the schema holds. lenient: keywords of a schema that cannot be enforced are passed over, not
    refused.
    """

    kind: Literal["json_schema", "regex", "lark", "gbnf", "choice"]
    text: str
    close: tuple[str, ...] = ()
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One completion. max_tokens None: until the context is full. context_length: tokens that prompt and answer may
    have together; None: as many as the loaded model has. progress: whether Progress is wanted.
    """

    prompt: str
    max_tokens: int | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    grammar: Grammar | None = None
    context_length: int | None = None
    progress: bool = False


KVType = Literal["f16", "q8_0", "q4_0"]
"""How keys and values are kept, by the names that hosts have for it. f16: as the model computes them."""
KV_TYPES: tuple[KVType, ...] = get_args(KVType)
AS_COMPUTED: KVType = "f16"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural logarithm of one token's probability, and the best alternatives, most probable first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Usage(NamedTuple):
    """Counts and durations so far. EOS is not counted among the generated tokens.

    prompt_ns spans tokenization to the first token read, so it includes the seed token's forward;
    generate_ns starts there.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_ns: int = 0
    generated_tokens: int = 0
    generate_ns: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The request is valid and prefill is about to begin."""

    prompt_tokens: int


class Progress(NamedTuple):
    """How much of the prompt is in memory: at first `cached_tokens`, at last `total_tokens`. ns: since the request
    began.
    """

    total_tokens: int
    cached_tokens: int
    processed_tokens: int
    ns: int


class Chunk(NamedTuple):
    """Text that is final: whole characters, past every stop string that could still match.

    token is the id of the last token that went into the text; logprobs has an entry for each token of it.
    """

    text: str
    token: int
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The regular end: "stop" for an end-of-sequence token or a stop string, "length" for a limit."""

    reason: Literal["stop", "length"]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The other end. status is the HTTP status that fits if nothing was sent yet."""

    message: str
    status: int = 500


Event = Started | Progress | Chunk | Done | Failed


class Outlet(Protocol):
    """Where one request's events go: the MLX thread puts them in, another thread takes them out."""

    def emit(self, event: Event) -> None:
        """Hand an event over; never waits. A Chunk may stay until `flush`; any other event goes at once, and what
        was handed over before it goes along.
        """

    def flush(self) -> None:
        """Let the chunks go. Whoever has more than one outlet fills them all first: they go together."""

    def has_room(self) -> bool:
        """False while too many events are unread: the request then rests."""


class Cancelled(Protocol):
    """Set when nobody wants the answer any more; `threading.Event` is one."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """busy: a request has it. tokens, bytes: how many it holds, those of an unfinished answer as of a short while
    ago; the bytes are those of its buffers, with the room that is reserved in them.
    """

    busy: bool
    tokens: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """Of the loaded model: entries on the disk, their bytes, and how many were restored."""

    entries: int
    bytes: int
    hits: int


class Pulse(NamedTuple):
    """What the MLX thread does, "" for nothing, and how often it has begun something or come further with it.

    patience_s: how long it may stay at one beat before it counts as stuck.
    """

    work: str
    beats: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """What anyone may know without waiting for the MLX thread.

    ready: a model is there to answer. progress: percent of the model that is, or was last, being loaded.
    memory: bytes that MLX holds. context_length: tokens. slots: of the loaded model, by number.
    disk: None if nothing is kept there. kv_type: of the slots.
    """

    ready: bool = False
    model: str = ""
    progress: int = 0
    context_length: int = 0
    memory: int = 0
    slots: tuple[SlotStatus, ...] = ()
    disk: DiskStatus | None = None
    kv_type: KVType = AS_COMPUTED
