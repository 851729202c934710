"""Bodies in: Ollama's names for what a request asks, and Go's rules for reading them.

A body is read as Go reads it, because a Go host leaves out what is zero:

- keys match without regard to case, the last one wins, unknown ones are ignored, null leaves the zero value;
- a missing option is zero, not Ollama's default: no temperature means greedy, no top_p means off;
- a value of the wrong JSON type is 400 `Bad Request`, never a guess.

Absence of `seed` means two things. Older hosts send `prompt` and know no seed: not seeded. Newer ones send
`Prompt` and always a seed, -1 if the user gave none: absent means 0. `num_ctx` means two things, too. A client of
ours sends it to say how much context is enough; a newer host sends its default with every request, whatever the
model can, so there it decides nothing.

Knows nothing about sockets or tensors.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, NoReturn

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from api.wire.bodies import BadBody, parse_ids, parse_object
from api.wire.format import read_format
from runner.errors import BadRequest
from runner.types import GenerateRequest, SamplingOptions

log = logging.getLogger(__name__)

MAX_STOPS, MAX_STOP_CHARS = 64, 1024
MAX_TEXT_BYTES = 4 << 20  # to be tokenized: 2.7 s and half a gigabyte, on a CPU of 2 cores
MAX_ENTRIES = 10_000  # of a list or map among the options
MAX_ID_DIGITS = 10
MAX_SHOWN = 20  # characters
MAX_TOP_LOGPROBS = 20
UNSEEDED = -1

Int = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Float = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Bool = Annotated[bool, Field(strict=True)]
Str = Annotated[str, Field(strict=True)]

# Options that hosts send with every request and that mean nothing here, with what they send by default.
WITHOUT_EFFECT: dict[str, Any] = {
    "num_batch": 512,
    "num_gpu": -1,
    "num_keep": 4,
    "num_thread": 0,
    "main_gpu": 0,
    "use_mmap": None,
    "draft_num_predict": None,
}
_said: set[str] = set()


class Body(BaseModel):
    """A JSON object read by Go's rules; see `normalised`."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Options(Body):
    """Sampling and limits; every default is Go's zero."""

    temperature: Float = 0.0
    top_k: Int = 0
    top_p: Float = 0.0
    min_p: Float = 0.0
    typical_p: Float = 0.0
    repeat_last_n: Int = 0
    repeat_penalty: Float = 0.0
    presence_penalty: Float = 0.0
    frequency_penalty: Float = 0.0
    seed: Int = 0
    num_predict: Int = 0
    max_tokens: Int = 0
    stop: list[Str] = []
    logit_bias: dict[str, Float] = {}

    num_ctx: Int = 0
    num_batch: Int = 0
    num_gpu: Int = 0
    num_keep: Int = 0
    num_thread: Int = 0
    main_gpu: Int = 0
    use_mmap: Bool = False
    draft_num_predict: Int = 0


class CompletionBody(Body):
    """POST /completion. `stream` is ours: false answers one JSON object. So is `return_progress`: how much of the
    prompt is fed, in records before the first text.
    """

    prompt: Str = ""
    options: Options = Options()
    media: list[Any] = []
    format: Any = None
    logprobs: Bool = False
    top_logprobs: Int = Field(0, validation_alias=AliasChoices("toplogprobs", "top_logprobs"))
    metrics: Bool = Field(False, validation_alias="includeintermediatemetrics")
    stream: Bool = True
    return_progress: Bool = False
    hosted: bool = False  # sent by a newer host; never read from the body

    def to_request(self) -> GenerateRequest:
        """The request without its wire names. Raises BadRequest, in the host's order."""
        grammar = read_format(self.format)
        if self.media:
            raise BadRequest("this model does not support image input")
        _warn_without_effect(self.options)
        return GenerateRequest(
            prompt=well_formed(self.prompt),
            max_tokens=_limit(self.options),
            sampling=self._sampling(),
            stop=_stops(self.options.stop),
            logprobs=self.logprobs or self.top_logprobs > 0,
            top_logprobs=_top_logprobs(self.top_logprobs),
            grammar=grammar,
            context_length=self._context_length(),
            progress=self.return_progress and self.stream,
        )

    def _context_length(self) -> int | None:
        """What is below 1 sets no limit."""
        num_ctx = self.options.num_ctx
        if self.hosted and num_ctx and "num_ctx" not in _said:
            _said.add("num_ctx")
            log.info("The host's num_ctx decides nothing", extra={"num_ctx": num_ctx})
        return num_ctx if num_ctx > 0 and not self.hosted else None

    def _sampling(self) -> SamplingOptions:
        options = self.options
        return SamplingOptions(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            typical_p=options.typical_p,
            repeat_last_n=options.repeat_last_n,
            repeat_penalty=options.repeat_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            seed=options.seed if options.seed >= 0 else None,
            logit_bias=_logit_bias(options.logit_bias),
        )


class LoadBody(Body):
    """POST /load. Without a model: are you there?"""

    model: Str = ""


def read_completion(data: bytes) -> CompletionBody:
    """Raises BadBody for anything that Go's decoder would refuse."""
    body = parse_object(data)
    fields = normalised(body)
    fields["hosted"] = "Prompt" in body
    if isinstance(fields.get("options", {}), dict):
        options = normalised(fields.get("options", {}))
        if not fields["hosted"]:
            options.setdefault("seed", UNSEEDED)
        _require_few(options)
        fields["options"] = options
    try:
        return CompletionBody.model_validate(fields)
    except ValidationError as error:
        _refuse(error)


def read_load(data: bytes) -> LoadBody:
    """Raises BadBody; an empty body counts as an empty object."""
    try:
        return LoadBody.model_validate(normalised(parse_object(data or b"{}")))
    except ValidationError as error:
        _refuse(error)


def read_text(data: bytes) -> str:
    """A raw UTF-8 body."""
    if len(data) > MAX_TEXT_BYTES:
        raise BadRequest(f"a text of {len(data)} bytes, limit {MAX_TEXT_BYTES}; send it in parts")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8 text") from None


def read_ids(data: bytes, size: int) -> list[int]:
    """A JSON array of token ids below `size`."""
    ids = parse_ids(data)
    for i in ids:
        if not 0 <= i < size:
            raise BadRequest(f"token id {i} is outside the vocabulary of {size}")
    return ids


def normalised(body: dict[str, Any]) -> dict[str, Any]:
    """Keys in lower case, nulls left out, the last of several spellings kept."""
    fields: dict[str, Any] = {}
    for key, value in body.items():
        if value is not None:
            fields[key.lower()] = value
    return fields


def well_formed(text: str) -> str:
    """Lone surrogates, which JSON can spell and UTF-8 cannot, become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _refuse(error: ValidationError) -> NoReturn:
    where = ".".join(str(part) for part in error.errors()[0]["loc"])
    log.debug("Body refused", extra={"field": where, "reason": error.errors()[0]["msg"]})
    raise BadBody from None


def _require_few(options: dict[str, Any]) -> None:
    """Raises BadRequest for a list that takes its time to validate, before that is done."""
    for name in ("stop", "logit_bias"):
        value = options.get(name)
        if isinstance(value, list | dict) and len(value) > MAX_ENTRIES:
            raise BadRequest(f"{name} has {len(value)} entries, limit {MAX_ENTRIES}")


def _limit(options: Options) -> int | None:
    """max_tokens wins over num_predict; what is below 1 means until the context is full."""
    limit = options.max_tokens if options.max_tokens > 0 else options.num_predict
    return limit if limit > 0 else None


def _stops(stops: list[str]) -> tuple[str, ...]:
    kept = tuple(well_formed(stop) for stop in stops if stop)
    if len(kept) > MAX_STOPS:
        raise BadRequest(f"stop has {len(kept)} strings, limit {MAX_STOPS}")
    for stop in kept:
        if len(stop) > MAX_STOP_CHARS:
            raise BadRequest(f"a stop string has {len(stop)} characters, limit {MAX_STOP_CHARS}")
    return kept


def _top_logprobs(width: int) -> int:
    if not 0 <= width <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}, got {width}")
    return width


def _logit_bias(bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for key in bias:
        if not key.isdecimal() or len(key) > MAX_ID_DIGITS:
            raise BadRequest(f"logit_bias: {key[:MAX_SHOWN]!r} is not a token id")
    return tuple((int(key), value) for key, value in bias.items())


def _warn_without_effect(options: Options) -> None:
    """Say once per process and option that a value which was set has no effect here."""
    for name in options.model_fields_set & WITHOUT_EFFECT.keys():
        usual, value = WITHOUT_EFFECT[name], getattr(options, name)
        if name == "draft_num_predict":
            usual = 0
        if usual is None or value == usual or name in _said:
            continue
        _said.add(name)
        log.warning("Option has no effect", extra={"option": name, "value": value})
