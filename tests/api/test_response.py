"""Lines that go straight to the connection, and those that go through ASGI: the same bytes, in one order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from api.inbox import Inbox
from api.response import CompletionResponse, Connection
from api.stream import EventStream, OpenStreams
from api.wire.records import Records
from runner.types import Chunk, Done, Event, Started, TokenLogprob, Usage
from tests.parts.raw_http import exchange
from tests.parts.serving import Serving
from tests.parts.streams import PLAIN_TEXT, ask, read_stream

USAGE = Usage(prompt_tokens=2, generated_tokens=3)


class Way:
    """Both ways out of an answer: a connection that is writable or not, as it is told, and ASGI's `send`."""

    def __init__(self) -> None:
        self.body = b""
        self.straight = 0
        self.through_asgi = 0
        self.writable = True

    def abort(self) -> None:
        raise AssertionError("nobody stalls here")

    def is_writable(self) -> bool:
        return self.writable

    def write(self, body: bytes) -> None:
        assert self.writable
        assert body
        self.straight += 1
        self.body += body

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            for _ in range(4):  # a connection that is full
                await asyncio.sleep(0)
            self.through_asgi += 1
            self.body += message["body"]


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("this is never reached")


async def answered(way: Way, connection: Connection | None, script: Sequence[Event | bool | int]) -> None:
    """Play a script: an event is emitted, a truth value is whether the connection is writable from now on, a number
    is how many turns of the loop go by.
    """
    stream = EventStream(Inbox())
    response = CompletionResponse(stream, OpenStreams(), Records(False), whole=False)
    scope: Scope = {"type": "http", "state": {"connection": connection} if connection else {}}
    answer = asyncio.create_task(response(scope, never, way.send))
    for what in script:
        if isinstance(what, bool):
            way.writable = what
        elif isinstance(what, int):
            for _ in range(what):
                await asyncio.sleep(0)
        else:
            stream.emit(what)
            stream.flush()
    await answer


chunks = st.builds(Chunk, st.text(max_size=3), st.integers(0, 9), st.just(USAGE), st.just(()))


@given(st.lists(chunks | st.booleans() | st.integers(0, 6), max_size=40))
def test_whatever_has_to_wait_the_lines_are_those_of_asgi_alone(
    script: list[Chunk | bool | int],
) -> None:
    whole = [Started(1), *script, Done("stop", USAGE)]
    straight, plain = Way(), Way()
    asyncio.run(answered(straight, straight, whole))
    asyncio.run(answered(plain, None, whole))
    events = [what for what in whole if not isinstance(what, bool | int)]
    assert straight.body == plain.body == Records(False).encoded(events)
    assert plain.straight == 0


def test_a_line_between_the_first_and_the_last_goes_straight_to_the_connection() -> None:
    way = Way()
    tokens: list[Event | int] = [part for token in range(50) for part in (Chunk("a", token, USAGE), 5)]
    asyncio.run(answered(way, way, [Started(1), 5, *tokens, Done("stop", USAGE)]))
    assert way.straight == 50
    assert way.through_asgi == 1  # the last one


def test_lines_wait_while_the_connection_takes_no_more() -> None:
    way = Way()
    tokens: list[Event | int] = [part for token in range(5) for part in (Chunk("a", token, USAGE), 5)]
    asyncio.run(answered(way, way, [Started(1), 5, False, *tokens, Done("stop", USAGE)]))
    assert way.straight == 0
    assert way.body.count(b"\n") == 6


def test_a_line_that_comes_while_another_is_being_sent_goes_behind_it() -> None:
    first, second = Chunk("first", 1, USAGE), Chunk("second", 2, USAGE)
    for turns in range(12):
        way = Way()
        asyncio.run(
            answered(way, way, [Started(1), 5, False, first, turns, True, second, Done("stop", USAGE)])
        )
        assert way.body.index(b"first") < way.body.index(b"second")


def test_a_line_that_cannot_be_made_ends_the_answer_on_either_way() -> None:
    impossible = Chunk("a", 1, USAGE, (TokenLogprob("a", float("nan")),))
    way = Way()
    for connection in (way, None):
        with pytest.raises(ValueError, match="not JSON compliant"):
            asyncio.run(answered(way, connection, [Started(1), 5, impossible, 5, Done("stop", USAGE)]))
    assert way.body == b""


def test_a_chunk_goes_with_a_flush_or_with_the_end() -> None:
    async def scene() -> None:
        stream = EventStream(Inbox())
        for event in (Started(1), Chunk("a", 1, USAGE)):
            stream.emit(event)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert stream.unread == (Started(1),)
        stream.flush()
        await asyncio.sleep(0)
        assert len(stream.unread) == 2
        for event in (Chunk("b", 2, USAGE), Done("stop", USAGE)):
            stream.emit(event)
        await asyncio.sleep(0)
        assert len(stream.unread) == 4

    asyncio.run(scene())


def test_a_client_of_http_1_0_gets_the_lines_without_frames(served: Serving) -> None:
    body = json.dumps(ask("framed", 30, logit_bias=PLAIN_TEXT)).encode()
    head = f"POST /completion HTTP/1.0\nHost: localhost\nContent-Length: {len(body)}"
    status, headers, lines = exchange(served, head, body)
    assert status == 200
    assert "transfer-encoding" not in headers
    assert read_stream(lines).text == served.answer(ask("framed", 30, logit_bias=PLAIN_TEXT)).text
