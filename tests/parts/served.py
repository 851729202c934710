"""A worker that serves a model made by hand."""

from __future__ import annotations

from runner.loading.loaded_model import LoadedModel
from runner.worker import Worker
from tests.parts.answer import WAIT_S


def give(worker: Worker, loaded: LoadedModel) -> None:
    """Have it served, on the worker's own thread."""

    def take() -> None:
        worker._serving.take(loaded)
        worker._tell_served()

    worker._jobs.call(take).result(WAIT_S)
