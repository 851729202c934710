"""The environment variables that the host and its users set, read as Ollama reads them.

Knows nothing about what they are for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from runner.store.resolve import DEFAULT_STORE
from runner.types import AS_COMPUTED, KV_TYPES, KVType

log = logging.getLogger(__name__)

TRUE = ("1", "t", "T", "TRUE", "true", "True")
DEFAULT_MAX_QUEUE = 512
MAX_PARALLEL = 64
MAX_RANKS = 64
MIN_CONTEXT = 2  # tokens: one of a prompt and one of an answer
DEFAULT_CACHE_BYTES = 16 * 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


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
    return _positive("OLLAMA_MAX_QUEUE", environ) or DEFAULT_MAX_QUEUE


def parallel(environ: Mapping[str, str] = os.environ) -> int:
    """OLLAMA_NUM_PARALLEL: how many requests are answered at once; what is not 1 to MAX_PARALLEL means 1, as 0
    does, with which a host leaves the choice to itself.
    """
    number = _positive("OLLAMA_NUM_PARALLEL", environ)
    return number if number is not None and number <= MAX_PARALLEL else 1


def context_length(environ: Mapping[str, str] = os.environ) -> int | None:
    """OLLAMA_CONTEXT_LENGTH: tokens that a request may have; what is less than MIN_CONTEXT or no number sets no
    limit, as 0 does, with which a host leaves the choice to itself.
    """
    number = _positive("OLLAMA_CONTEXT_LENGTH", environ)
    return number if number is not None and number >= MIN_CONTEXT else None


def kv_type(environ: Mapping[str, str] = os.environ) -> KVType:
    """OLLAMA_KV_CACHE_TYPE: how keys and values are kept. Another word costs a warning: a host hands it to all that
    it starts, and another runner may know more of them.
    """
    value = variable("OLLAMA_KV_CACHE_TYPE", environ).lower()
    for known in KV_TYPES:
        if value == known:
            return known
    if value:
        log.warning(f"OLLAMA_KV_CACHE_TYPE is none of {', '.join(KV_TYPES)}", extra={"value": value})
    return AS_COMPUTED


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path | None:
    """MLX_RUNNER_CACHE_DIR: where slots are saved; None: nowhere."""
    value = variable("MLX_RUNNER_CACHE_DIR", environ)
    return Path(value) if value else None


def cache_size(environ: Mapping[str, str] = os.environ) -> int:
    """MLX_RUNNER_CACHE_SIZE: bytes that files there may have together. Raises ValueError for what `size` cannot
    read, since it is ours alone, and whoever sets it relies on it.
    """
    value = variable("MLX_RUNNER_CACHE_SIZE", environ)
    return size(value) if value else DEFAULT_CACHE_BYTES


def _positive(name: str, environ: Mapping[str, str]) -> int | None:
    """None for what is not a positive number; one of so many digits that Python does not read it is none either."""
    value = variable(name, environ)
    with contextlib.suppress(ValueError):
        return int(value) or None if value.isdecimal() else None
    return None


def memory(environ: Mapping[str, str] = os.environ) -> int | None:
    """MLX_RUNNER_MEMORY: bytes that MLX may hold. Raises ValueError for what `size` cannot read: it is ours alone,
    and whoever sets it relies on it.
    """
    value = variable("MLX_RUNNER_MEMORY", environ)
    return size(value) if value else None


def watchdog_s(environ: Mapping[str, str] = os.environ) -> int | None:
    """MLX_RUNNER_WATCHDOG: seconds without progress after which the process ends; 0: never, None: the default.
    Raises ValueError for what is no whole number: it is ours alone, and whoever sets it relies on it.
    """
    value = variable("MLX_RUNNER_WATCHDOG", environ)
    if not value:
        return None
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise ValueError(f"{value}: expected seconds, such as 600, or 0 for never")
    return int(value)


def tensor_parallel(environ: Mapping[str, str] = os.environ) -> int:
    """MLX_RUNNER_TENSOR_PARALLEL: processes that have the model together. Raises ValueError for what is not 1 to
    MAX_RANKS: it is ours alone, and whoever sets it relies on it.
    """
    value = variable("MLX_RUNNER_TENSOR_PARALLEL", environ) or "1"
    if not re.fullmatch(r"\d{1,3}", value, re.ASCII) or not 1 <= int(value) <= MAX_RANKS:
        raise ValueError(f"{value}: expected 1 to {MAX_RANKS}")
    return int(value)


def token(environ: Mapping[str, str] = os.environ) -> bytes | None:
    """MLX_RUNNER_TOKEN: what requests must show; None: nothing. Raises ValueError for what no header carries, and
    for an empty value: whoever sets it believes that it protects them. The message does not repeat the value.
    """
    value = environ.get("MLX_RUNNER_TOKEN")
    if value is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,1000}", value):
        raise ValueError("expected 1 to 1000 letters, digits and . _ ~ + / = -, or no such variable at all")
    return value.encode()


def size(text: str) -> int:
    """Bytes, as `8G`, `512MiB`, `1.5 GB` or a plain number say; units are powers of 1024. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:I?B)?", text.strip().upper(), re.ASCII)
    if found is None or not (size := int(float(found[1]) * UNITS[found[2]])):
        raise ValueError(f"{text}: expected a size such as 8G or 512M")
    return size
