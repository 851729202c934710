"""Records out: one JSON object a line, in a shape that every generation of host reads.

Hosts match names without regard to case, so `content` and `done` serve all of them, and names with an
underscore come twice. Counts and durations (ns) are JSON integers, `Error` is an object, numbers are finite,
and a line is shorter than 64 KiB: where one is not, a host loses the line, or the stream.

An error before the first record is a status with a plain line of text; after it, a last record with `Error`.

Knows nothing about requests or sockets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from runner.totals import Totals
from runner.types import (
    NS_PER_S,
    Chunk,
    Done,
    Event,
    Failed,
    Progress,
    SlotStatus,
    Status,
    TokenLogprob,
    Usage,
)

MAX_LINE = 60_000  # bytes; a host's scanner gives up at 65,536
MAX_TEXT = 8_000  # characters; each may become six bytes
DONE_REASONS = {"stop": 0, "length": 1}
COUNTERS = (
    *("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
    *("PromptEvalCount", "PromptEvalDuration", "EvalCount", "EvalDuration"),
    "PromptEvalCachedCount",
)


class Records:
    """Turns events into lines for one request. metrics: counters on every record, as some hosts ask."""

    def __init__(self, metrics: bool) -> None:
        self._metrics = metrics

    def encoded(self, events: Iterable[Event]) -> bytes:
        """The lines of all of them."""
        return b"".join([line for event in events for line in self.lines(event)])

    def lines(self, event: Event) -> Iterable[bytes]:
        """One record, several where one would be too long, none for Started."""
        match event:
            case Chunk():
                is_plain = not event.logprobs and len(event.text) <= MAX_TEXT
                return (self._plain(event),) if is_plain else self._chunk(event)
            case Progress():
                return (_line(progress(event)),)
            case Done():
                return (_line(self.final("", event)),)
            case Failed():
                return (_line(failure(event)),)
            case _:
                return ()

    def whole(self, text: str, logprobs: list[TokenLogprob], event: Done) -> dict[str, Any]:
        """Everything in one object, for a client that does not want a stream."""
        record = self.final(text, event)
        return record | {"Logprobs": [wire_logprob(entry) for entry in logprobs]} if logprobs else record

    def final(self, text: str, event: Done) -> dict[str, Any]:
        """The last record of a regular end."""
        reason = DONE_REASONS[event.reason]
        usage = event.usage
        return {
            "content": text,
            "done": True,
            "done_reason": reason,
            "DoneReason": reason,
            **counters(usage),
            "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        }

    def _plain(self, event: Chunk) -> bytes:
        """The record of nearly every token: what `_chunk` yields for it, from a form that was filled in before."""
        text = _ENCODER.encode(event.text)
        if self._metrics:
            return (_WITH_COUNTERS % (text, event.token, *_counted(event.usage))).encode()
        return (_PLAIN % (text, event.token)).encode()

    def _chunk(self, event: Chunk) -> Iterator[bytes]:
        extra = counters(event.usage) if self._metrics else {}
        logprobs = [wire_logprob(entry) for entry in event.logprobs]
        pieces = [event.text[i : i + MAX_TEXT] for i in range(0, len(event.text), MAX_TEXT)] or [""]
        for piece in pieces:
            record = {"content": piece, "done": False, "token": event.token, **extra}
            if logprobs:
                record["Logprobs"], logprobs = _as_many_as_fit(logprobs)
            yield _line(record)
        while logprobs:
            fitting, logprobs = _as_many_as_fit(logprobs)
            yield _line({"content": "", "done": False, "token": event.token, **extra, "Logprobs": fitting})


def progress(event: Progress) -> dict[str, Any]:
    """A record without text. The names inside, and milliseconds, are what clients of llama-server know."""
    prompt = {
        "total": event.total_tokens,
        "cache": event.cached_tokens,
        "processed": event.processed_tokens,
        "time_ms": event.ns * 1000 // NS_PER_S,
    }
    return {"content": "", "done": False, "prompt_progress": prompt}


def cache_record(status: Status, totals: Totals) -> dict[str, Any]:
    """What the slots hold, and how many requests found something in one, or nothing."""
    disk = status.disk
    return {
        **_held(status.slots),
        "hits": totals.hits,
        "misses": totals.misses,
        "slots": [{"busy": slot.busy, "tokens": slot.tokens, "bytes": slot.bytes} for slot in status.slots],
        "disk": None if disk is None else asdict(disk),
        "kv_type": status.kv_type,
    }


def emptied_record(emptied: Sequence[SlotStatus], status: Status) -> dict[str, Any]:
    """What was forgotten, and how many slots were not, since requests have them."""
    return {"emptied": len(emptied), **_held(emptied), "busy": sum(slot.busy for slot in status.slots)}


def _held(slots: Sequence[SlotStatus]) -> dict[str, int]:
    return {"tokens": sum(slot.tokens for slot in slots), "bytes": sum(slot.bytes for slot in slots)}


def life_record(status: Status) -> dict[str, Any]:
    """What a ping may know that does not show the token: nothing about models and requests."""
    return {"status": 0 if status.ready else 1, "progress": status.progress}


def status_record(status: Status) -> dict[str, Any]:
    """The answer to a ping; Memory in bytes, progress in percent."""
    return life_record(status) | {
        "ContextLength": status.context_length,
        "Memory": status.memory,
        "model": status.model,
        "slots": [{"busy": slot.busy, "tokens": slot.tokens} for slot in status.slots],
        "kv_type": status.kv_type,
    }


def counters(usage: Usage) -> dict[str, int]:
    """Counts, and durations in integer nanoseconds, under both spellings."""
    return dict(zip(COUNTERS, _counted(usage), strict=True))


def _counted(usage: Usage) -> tuple[int, ...]:
    """The values of COUNTERS."""
    both = usage.prompt_tokens, usage.prompt_ns, usage.generated_tokens, usage.generate_ns
    return *both, *both, usage.cached_tokens


def failure(event: Failed) -> dict[str, Any]:
    """The last record after something went wrong. Hosts of the first generation only look at `done`."""
    error = {"StatusCode": event.status, "Status": "", "error": event.message[:MAX_TEXT]}
    return {"content": "", "done": True, "done_reason": 0, "DoneReason": 0, "Error": error}


def wire_logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [{"token": token, "logprob": value} for token, value in entry.top]
    wire: dict[str, Any] = {"token": entry.token, "logprob": entry.logprob}
    return wire | {"top_logprobs": top} if top else wire


def _as_many_as_fit(entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split where the encoded entries would pass half a line; at least one goes first."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(_encoded(entry))
        if size > MAX_LINE // 2 and count:
            return entries[:count], entries[count:]
    return entries, []


def _line(record: dict[str, Any]) -> bytes:
    return _encoded(record) + b"\n"


# Made once: json.dumps with options makes an encoder for every record, which costs more than encoding one.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _encoded(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


_PLAIN = '{"content":%s,"done":false,"token":%d}\n'
_WITH_COUNTERS = _PLAIN.replace("}", "".join(f',"{name}":%d' for name in COUNTERS) + "}")
