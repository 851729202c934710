"""The environment variables that the host and its users set, read as Ollama reads them.

Knows nothing about what they are for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runner.store.resolve import DEFAULT_STORE

TRUE = ("1", "t", "T", "TRUE", "true", "True")
DEFAULT_MAX_QUEUE = 512
MAX_PARALLEL = 64
MIN_CONTEXT = 2  # tokens: one of a prompt and one of an answer


def variable(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """A value without surrounding blanks and quotes; "" if it is not set."""
    return environ.get(name, "").strip().strip("\"'")


def log_level(environ: Mapping[str, str] = os.environ) -> int:
    """OLLAMA_DEBUG as a slog level: true is DEBUG (-4), 2 is TRACE (-8), i is -4*i; else INFO (0)."""
    value = variable("OLLAMA_DEBUG", environ)
    if value in TRUE:
        return -4
    try:
        return -4 * int(value)
    except ValueError:
        return 0


def model_store(environ: Mapping[str, str] = os.environ) -> Path:
    """OLLAMA_MODELS, or where hosts keep their models if it is not set."""
    store = Path(variable("OLLAMA_MODELS", environ) or DEFAULT_STORE)
    try:
        return store.expanduser()
    except RuntimeError:  # a user without a home
        return store


def max_queue(environ: Mapping[str, str] = os.environ) -> int:
    """OLLAMA_MAX_QUEUE: how many requests may wait; what is not a positive number means the default."""
    value = variable("OLLAMA_MAX_QUEUE", environ)
    return int(value) if value.isdecimal() and int(value) > 0 else DEFAULT_MAX_QUEUE


def parallel(environ: Mapping[str, str] = os.environ) -> int:
    """OLLAMA_NUM_PARALLEL: how many requests are answered at once; what is not 1 to MAX_PARALLEL means 1, as 0
    does, with which a host leaves the choice to itself.
    """
    value = variable("OLLAMA_NUM_PARALLEL", environ)
    return int(value) if value.isdecimal() and 1 <= int(value) <= MAX_PARALLEL else 1


def context_length(environ: Mapping[str, str] = os.environ) -> int | None:
    """OLLAMA_CONTEXT_LENGTH: tokens that a request may have; what is less than MIN_CONTEXT or no number sets no
    limit, as 0 does, with which a host leaves the choice to itself.
    """
    value = variable("OLLAMA_CONTEXT_LENGTH", environ)
    return int(value) if value.isdecimal() and int(value) >= MIN_CONTEXT else None
