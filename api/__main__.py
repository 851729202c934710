"""`mlx-runner` and `python -m api`: arguments, address, worker, server, and the way out.

The address is taken before anything slow, and the model is loaded while the server's code is imported.

Knows nothing about routes or arrays.
"""

from __future__ import annotations

from api.process import signals  # first, since the imports below take their time

# isort: split
import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from concurrent.futures import Future
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn

from api.commands.command_line import Arguments, parse
from api.process import lifecycle, logs, watchdog
from api.process.address import AddressTaken, bind, is_loopback
from api.process.backend import mlx_needed
from api.process.environment import (
    cache_dir,
    cache_size,
    context_length,
    kv_type,
    log_level,
    max_queue,
    memory,
    model_store,
    parallel,
    tensor_parallel,
    token,
    watchdog_s,
)
from runner.errors import (
    BackendMissing,
    BadCacheFolder,
    RunnerError,
    ShuttingDown,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from api.process.followers import Join
    from api.server import Server
    from api.stream import OpenStreams
    from runner.disk.folder import Folder
    from runner.worker import Worker

log = logging.getLogger(__name__)

FORCED_EXIT_S = 3.0  # after the first signal; hosts wait five seconds
FAREWELL_S = 0.2
SAVING_S = 2.5  # until all that slots hold is on the disk, or the worker gave up


class Ending:
    """How this process ends, whoever asks for it; learns its parts as they come to life."""

    def __init__(self, handler: logs.PipeHandler) -> None:
        self._handler = handler
        self.stopping = False
        self._parts: tuple[asyncio.AbstractEventLoop, Server, OpenStreams, Worker] | None = None

    def know(self, server: Server, streams: OpenStreams, worker: Worker) -> None:
        self._parts = asyncio.get_running_loop(), server, streams, worker

    def fatal(self, error: Exception | str, code: int) -> NoReturn:
        lifecycle.fatal(str(error), code, self._handler)

    def ask_to_stop(self, number: int) -> None:
        """A signal came: tell every open answer, let the server end. A second one ends the process at once."""
        if self.stopping:
            lifecycle.leave(lifecycle.AT_ONCE + number)
        if self._parts is None:
            lifecycle.leave(lifecycle.STOPPED)
        self.stopping = True
        lifecycle.leave_after(FORCED_EXIT_S, lifecycle.STOPPED)
        _, server, streams, worker = self._parts
        log.info("Stopping")
        worker.stop()
        streams.farewell(ShuttingDown())
        server.should_exit = True

    def worker_died(self, reason: str) -> None:
        """Called on the dying thread, or for one that is stuck: a runner that cannot answer must not look alive."""
        self._give_up(reason, lifecycle.WORKER_DIED)

    def device_lost(self, reason: str) -> None:
        """Called on the worker's thread, which ends."""
        self._give_up(reason, lifecycle.DEVICE_LOST)

    def rank_lost(self, reason: str) -> None:
        """Called on a thread that watches: what is left of the model answers nobody."""
        self._give_up(reason, lifecycle.RANK_LOST)

    def _give_up(self, reason: str, code: int) -> NoReturn:
        if self.stopping:
            lifecycle.leave(lifecycle.STOPPED, self._handler)
        if self._parts is not None:
            loop, _, streams, _ = self._parts
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(streams.farewell, RunnerError(reason))
            time.sleep(FAREWELL_S)
        self.fatal(reason, code)


def main() -> NoReturn:
    """Serve until told to stop. Never returns: every end is one of the exit codes in lifecycle.py."""
    gc.disable()  # importing makes hardly any garbage, and looking for it takes a tenth of the start
    if sys.argv[1:2] == ["import"]:
        from api.commands import importing

        signals.interrupt()
        importing.main(sys.argv[2:])
    if sys.argv[1:2] == ["show"]:
        from api.commands import showing

        signals.interrupt()
        showing.main(sys.argv[2:])
    if sys.argv[1:2] == ["follow"]:
        from api.process import following

        following.main(sys.argv[2:])
    arguments = parse(sys.argv[1:])
    join = None
    if (size := processes(arguments)) > 1:
        from api.process import followers

        join = followers.group(size)
    if arguments.hosted:
        lifecycle.watch_parent()
    lifecycle.raise_file_limit()
    handler = logs.start(log_level(), None if join is None else 0)
    ending = Ending(handler)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ending.ask_to_stop(number))
    secret = secret_for(ending, arguments)
    try:
        bound = bind(arguments.host, arguments.port)
        patience_s = patience(ending)
        watcher = watchdog.start_watcher(patience_s, hosted=arguments.hosted)
        worker = start_worker(ending, arguments, join, watcher)
    except AddressTaken as error:
        ending.fatal(error, lifecycle.ADDRESS)
    except BadCacheFolder as error:
        ending.fatal(error, lifecycle.USAGE)
    except BackendMissing as error:
        ending.fatal(error, lifecycle.OTHER)
    except UnsupportedModel as error:
        ending.fatal(error, lifecycle.USAGE)
    watchdog.Watchdog(worker, watcher, patience_s, ending.worker_died).start()
    asyncio.run(serve(arguments, bound, worker, worker.load(arguments.model), ending, secret))
    worker.join(SAVING_S if worker.saves else FAREWELL_S)
    lifecycle.leave(lifecycle.STOPPED, handler)


def processes(arguments: Arguments) -> int:
    """How many have the model together."""
    try:
        return arguments.tensor_parallel or tensor_parallel()
    except ValueError as error:
        lifecycle.fatal(f"MLX_RUNNER_TENSOR_PARALLEL={error}", lifecycle.USAGE)


def secret_for(ending: Ending, arguments: Arguments) -> bytes | None:
    """The token that requests must show; None for none, which is for this machine only unless somebody says so."""
    try:
        secret = token()
    except ValueError as error:
        ending.fatal(f"MLX_RUNNER_TOKEN: {error}", lifecycle.USAGE)
    if secret is None and not is_loopback(arguments.host) and not arguments.open_to_network:
        ending.fatal(
            f"--host {arguments.host} lets other machines in: set MLX_RUNNER_TOKEN, or say --open-to-network",
            lifecycle.USAGE,
        )
    if secret is not None and arguments.hosted:
        log.warning("Requests must show the token of MLX_RUNNER_TOKEN; Ollama shows none")
    return secret


def patience(ending: Ending) -> int | None:
    """Seconds without progress after which this process ends; 0: never, None: the worker knows."""
    try:
        return watchdog_s()
    except ValueError as error:
        ending.fatal(f"MLX_RUNNER_WATCHDOG={error}", lifecycle.USAGE)


def start_worker(
    ending: Ending, arguments: Arguments, join: Join | None, watcher: watchdog.Watcher | None
) -> Worker:
    """The MLX thread. join: makes us the first of several processes. Raises BackendMissing where MLX cannot be
    imported, BadCacheFolder, or UnsupportedModel where there are too few GPUs.
    """
    try:
        budget = arguments.memory or memory()
    except ValueError as error:
        ending.fatal(f"MLX_RUNNER_MEMORY={error}", lifecycle.USAGE)
    folder = cache_folder(arguments)
    with mlx_needed():
        from runner.worker import Worker
    ranks = None
    if join is not None:
        ranks = join(ending.rank_lost, watcher)
        if folder is not None:
            log.warning("Nothing is kept on the disk: several processes have the model")
            folder = None
    worker = Worker(
        max_queue(),
        ending.worker_died,
        model_store(),
        packed=arguments.packed,
        parallel=arguments.parallel or parallel(),
        context_length=arguments.context_length or context_length(),
        kv_type=arguments.kv_type or kv_type(),
        on_lost_device=ending.device_lost,
        memory_budget=budget,
        cache_folder=folder,
        ranks=ranks,
    )
    worker.start()
    return worker


def cache_folder(arguments: Arguments) -> Folder | None:
    """Where slots are to be saved; None: nowhere. Raises BadCacheFolder."""
    from runner.disk.folder import open_folder

    folder = arguments.cache_dir or cache_dir()
    if folder is None:
        return None
    try:
        return open_folder(folder, arguments.cache_size or cache_size())
    except ValueError as error:
        raise BadCacheFolder(f"MLX_RUNNER_CACHE_SIZE {error}") from None


async def serve(
    arguments: Arguments,
    bound: socket.socket,
    worker: Worker,
    loading: Future[None],
    ending: Ending,
    secret: bytes | None,
) -> None:
    """Answer until somebody asks to stop; leave with an error if the first model cannot be loaded."""
    from api.access import Access
    from api.server import Server, create_app

    app = create_app(worker, Access(arguments.host, secret))
    server = Server(app)
    ending.know(server, app.state.streams, worker)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.ask_to_stop, number)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    loaded = asyncio.wrap_future(loading)
    await asyncio.wait([serving, loaded], return_when=asyncio.FIRST_COMPLETED)
    if loaded.done() and not ending.stopping:
        try:
            loaded.result()
        except RunnerError as error:
            ending.fatal(error, lifecycle.MODEL)
        announce(arguments, bound, worker, needs_token=secret is not None)
    gc.enable()
    await serving


def announce(arguments: Arguments, bound: socket.socket, worker: Worker, *, needs_token: bool) -> None:
    """Tell the log, and a person, where the runner listens."""
    host, port = bound.getsockname()[:2]
    log.info("Runner ready", extra={"host": host, "port": port, "model": worker.status.model})
    if arguments.hosted:
        return
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    body = '{"prompt": "Once upon a time", "options": {"num_predict": 80}}'
    with contextlib.suppress(OSError):  # nobody reads our output
        print(
            f"mlx-runner {version('mlx-runner')} is ready: {worker.status.model} at {url} (Ctrl-C stops it)"
        )
        shown = ' -H "Authorization: Bearer $MLX_RUNNER_TOKEN"' if needs_token else ""
        print(f"try: curl -N{shown} {url}/completion -d '{body}'", flush=True)


if __name__ == "__main__":
    main()
