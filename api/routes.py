"""The routes, a few lines each, every one under all of its names.

Knows nothing about arrays; what may block runs on another thread or on the worker.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.guard import MAX_BODY_BYTES, read_body
from api.response import CompletionResponse
from api.stream import EventStream, OpenStreams
from api.wire.answers import IdsLine, JsonLine
from api.wire.bodies import aside
from api.wire.metrics import EXPOSITION, exposition
from api.wire.records import Records, cache_record, emptied_record, life_record, status_record
from api.wire.schema import read_completion, read_ids, read_load, read_text
from runner.worker import Worker

router = APIRouter()
ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
SUCCESS = {"Success": True}
MAX_REPLY_BYTES = MAX_BODY_BYTES


def worker_of(request: Request) -> Worker:
    worker: Worker = request.app.state.worker
    return worker


def one_at_a_time(request: Request) -> asyncio.Lock:
    """For what takes a lot of memory for a while."""
    lock: asyncio.Lock = request.app.state.tokenizing
    return lock


@router.post("/completion")
@router.post("/v1/completions")
async def completion(request: Request) -> Response:
    """Queue the prompt; the response follows its events."""
    data = await read_body(request)
    body = await aside(len(data), lambda: read_completion(data))
    worker = worker_of(request)
    worker.require_model()
    wanted = await aside(len(data), body.to_request)
    if wanted.grammar is not None:
        await asyncio.to_thread(worker.compile, wanted.grammar)
    streams: OpenStreams = request.app.state.streams
    stream = EventStream(streams.inbox, request.app.state.stall_s)
    stream.job = worker.generate(wanted, stream)
    return CompletionResponse(stream, streams, Records(body.metrics), whole=not body.stream)


@router.api_route("/load", methods=ANY_METHOD)
@router.api_route("/v1/models", methods=ANY_METHOD)
async def models(request: Request) -> Response:
    """POST with a model loads it, DELETE frees it; without either, a sign of life."""
    worker = worker_of(request)
    if request.method == "DELETE":
        await asyncio.wrap_future(worker.unload())
        return Response()
    if request.method == "POST":
        data = await read_body(request)
        body = await aside(len(data), lambda: read_load(data))
        if body.model:
            await asyncio.wrap_future(worker.load(body.model))
    return JsonLine(SUCCESS) if request.method in ("GET", "HEAD", "POST") else Response()


@router.api_route("/health", methods=["GET", "HEAD"])
@router.api_route("/v1/status", methods=["GET", "HEAD"])
async def status(request: Request) -> Response:
    """200 once a model is loaded; until then 503, with the progress of loading."""
    now = worker_of(request).status
    is_stranger = getattr(request.state, "is_stranger", False)
    record = life_record(now) if is_stranger else status_record(now)
    return JsonLine(record, 200 if now.ready else 503)


@router.api_route("/v1/cache", methods=["GET", "HEAD"])
async def cache(request: Request) -> Response:
    """What is kept for the next prompts; never waits."""
    worker = worker_of(request)
    return JsonLine(cache_record(worker.status, worker.totals))


@router.delete("/v1/cache")
async def empty_cache(request: Request) -> Response:
    """Forget all of it but what requests under way have."""
    worker = worker_of(request)
    emptied = await asyncio.wrap_future(worker.empty_cache())
    return JsonLine(emptied_record(emptied, worker.status))


@router.api_route("/metrics", methods=["GET", "HEAD"])
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms for Prometheus; never waits."""
    worker = worker_of(request)
    text = exposition(worker.status, worker.totals, worker.waiting)
    return Response(text, media_type=EXPOSITION)


@router.post("/v1/tokenize")
async def tokenize(request: Request) -> Response:
    """Text in, JSON array of ids out; answered while a generation runs."""
    tokenizer = worker_of(request).tokenizer
    text = read_text(await read_body(request))
    async with one_at_a_time(request):
        return await asyncio.to_thread(lambda: IdsLine(tokenizer.encode(text) if text else []))


@router.post("/v1/detokenize")
async def detokenize(request: Request) -> Response:
    """JSON array of ids in, text out."""
    tokenizer = worker_of(request).tokenizer
    body = await read_body(request)
    async with one_at_a_time(request):
        text = await asyncio.to_thread(
            lambda: tokenizer.decode(read_ids(body, tokenizer.size), MAX_REPLY_BYTES)
        )
    return Response(text, media_type="text/plain")
