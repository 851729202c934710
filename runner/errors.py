"""Everything that can go wrong and is not a bug of ours.

    RunnerError                  500
    |-- BadRequest               400   the request itself: the message names the value and the limit
    |   |-- EmptyPrompt          400
    |   |-- PromptTooLong        400
    |   |-- PromptTooLarge       400   for the memory
    |   `-- BadGrammar           400   a schema or grammar that cannot be held to
    |-- GrammarUnavailable       501
    |-- ModelNotLoaded           503
    |-- Busy                     503   the queue is full
    |-- ShuttingDown             503
    |-- BadCacheFolder           500   where entries of the cache are to be kept
    `-- LoadError                500   why a model cannot be brought in
        |-- ModelNotFound        404
        |-- ModelTooLarge        500   for the memory
        |-- BadModelFiles        500   broken, missing or contradicting files
        |-- UnsupportedModel     400   a valid model that we cannot run
        `-- BackendMissing       500   MLX itself cannot be imported

`status` is a hint for the door (`api/`), which decides whether it becomes an HTTP status or a last record.
Any other exception that reaches the worker's job loop is a bug in this project or a failure of MLX.

A message may have foreign text in it: a name of a file or a tensor, a value, what a library said. `message` is the
one rule for that, and every RunnerError follows it.

Knows nothing about HTTP beyond these numbers: standard library only.
"""

from __future__ import annotations

MAX_MESSAGE = 1000  # characters
LEFT_OUT = " ... "
OUT_OF_MEMORY = "out of memory"
# How MLX and the drivers behind it say so.
SHORTAGES = ("malloc]", "resource limit exceeded", "insufficient memory", "outofmemory", OUT_OF_MEMORY)


# How MLX says that a GPU failed at what it was given. What it is given from then on fails, too, or means nothing.
LOST_DEVICES = (
    "command buffer execution failed",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable",
)


def message(text: str) -> str:
    """One printable line of MAX_MESSAGE characters at most. Of a longer one the middle is left out: what is wrong
    stands at the beginning or at the end, and the long name between them.
    """
    if len(text) > MAX_MESSAGE:
        kept = (MAX_MESSAGE - len(LEFT_OUT)) // 2
        text = text[:kept] + LEFT_OUT + text[-kept:]
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def explain(error: BaseException) -> str:
    """What somebody else's exception says, as a message. Hosts know memory trouble by its words, and MLX's own are
    not among them; where files lie is nobody's business.
    """
    said = error.strerror if isinstance(error, OSError) else None
    text = message(said or str(error)) or type(error).__name__
    known = OUT_OF_MEMORY in text.lower()
    return f"{OUT_OF_MEMORY}: {text}" if is_out_of_memory(error) and not known else text


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return any(words in text for words in SHORTAGES)


def is_lost_device(error: BaseException) -> bool:
    text = str(error).lower()
    return any(words in text for words in LOST_DEVICES) and not is_out_of_memory(error)


class RunnerError(Exception):
    """The root. The message is one line that a person can act on."""

    status = 500

    def __init__(self, text: str) -> None:
        super().__init__(message(text))


class BadRequest(RunnerError):
    status = 400


class EmptyPrompt(BadRequest):
    def __init__(self) -> None:
        super().__init__("empty prompt")


class PromptTooLong(BadRequest):
    """The wording is the host's own: clients look for "context" and "exceeds" in it. set_by: who made the limit
    lower than the model's.
    """

    def __init__(self, tokens: int, limit: int, set_by: str = "", *, at_least: bool = False) -> None:
        """at_least: more were not counted."""
        length = f"at least {tokens}" if at_least else tokens
        super().__init__(
            f"input length ({length} tokens) exceeds the model's maximum context length ({limit} tokens)"
            + (f", set by {set_by}" if set_by else "")
        )


class PromptTooLarge(BadRequest):
    """It does not fit into the memory, with nobody beside it. None of the words by which hosts know memory trouble:
    they would end a runner that is well.
    """

    def __init__(self, tokens: int, needed: int, there: int) -> None:
        super().__init__(
            f"input length ({tokens} tokens) exceeds what the memory budget allows: it needs {in_mib(needed)}, and "
            f"there are {in_mib(max(0, there))} beside the model; raise --memory or MLX_RUNNER_MEMORY"
        )


class BadGrammar(BadRequest):
    """The first words are the host's own, and so is the length: clients look for the one, hosts cut the other."""

    LONGEST = 450

    def __init__(self, reason: str) -> None:
        shown = reason if len(reason) <= self.LONGEST else f"{reason[: self.LONGEST]}..."
        whole = shown.encode(errors="backslashreplace").decode()  # half a character cannot be sent
        super().__init__(f"invalid structured output grammar: {whole}")


class GrammarUnavailable(RunnerError):
    """llguidance cannot be imported, or no token of the model ends an answer. The wording is the host's own."""

    status = 501

    def __init__(self) -> None:
        super().__init__("structured output is unavailable")


class ModelNotLoaded(RunnerError):
    status = 503

    def __init__(self) -> None:
        super().__init__("model not loaded")


class Busy(RunnerError):
    status = 503

    def __init__(self, limit: int) -> None:
        super().__init__(f"server busy: {limit} requests are waiting (OLLAMA_MAX_QUEUE); try again later")


class ShuttingDown(RunnerError):
    status = 503

    def __init__(self) -> None:
        super().__init__("the runner is shutting down")


class BadCacheFolder(RunnerError):
    status = 500


class LoadError(RunnerError):
    status = 500


class ModelTooLarge(LoadError):
    """Its weights alone exceed what the memory budget allows."""

    def __init__(self, size: int, budget: int) -> None:
        super().__init__(
            f"the model's weights have {in_mib(size)}, which exceeds the memory budget of {in_mib(budget)}; "
            "raise --memory or MLX_RUNNER_MEMORY"
        )


class ModelNotFound(LoadError):
    status = 404


class BadModelFiles(LoadError):
    status = 500


class UnsupportedModel(LoadError):
    status = 400


class BackendMissing(LoadError):
    status = 500


def in_mib(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**20:,.1f} MiB"
