"""Positions far behind the original context, and what a worker thread may do with a model made elsewhere."""

from __future__ import annotations

import threading

import mlx.core as mx
import pytest

from runner.config.fields import Config
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.models import Conversation, logits, made
from tests.parts.references import reference

LENGTH = 700
ORIGINAL = {"original_max_position_embeddings": 64}
LLAMA3 = {"factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES: dict[str, Config] = {
    "linear": {"type": "linear", "factor": 16.0},
    "dynamic": {"type": "dynamic", "factor": 16.0},
    "llama3": {"rope_type": "llama3", **LLAMA3, **ORIGINAL},
    "yarn": {"rope_type": "yarn", "factor": 16.0, **ORIGINAL},
}


@pytest.mark.parametrize("kind", ROPES)
def test_positions_far_behind_the_original_context(kind: str) -> None:
    """Ten times the original context, in chunks, then a few tokens one by one: still mlx-lm's logits."""
    fields = {"rope_scaling": ROPES[kind], "max_position_embeddings": 1024}
    case = Case(f"Llama long {kind}", "LlamaForCausalLM", fields)
    theirs = reference(case)
    tokens = some_tokens(LENGTH)
    conversation = Conversation(made(case, theirs.checkpoint()))
    parts = [conversation.feed(tokens[:-4], (256,)), conversation.feed(tokens[-4:], (1,))]
    assert difference(mx.concatenate(parts), theirs.logits(tokens)) < 1e-4


def test_the_context_of_dynamic_rope_ends_where_its_scaling_would_begin() -> None:
    """Behind it every key already cached would have to be rotated anew; mlx-lm mixes both rotations there."""
    fields = {"rope_scaling": {"type": "dynamic", "factor": 8.0}, "max_position_embeddings": 96}
    case = Case("Llama dynamic", "LlamaForCausalLM", fields)
    assert made(case, reference(case).checkpoint()).context_length == 96


def test_a_model_made_on_one_thread_runs_on_another() -> None:
    """Its own constants (yarn's periods) are no pending work of the thread that made it."""
    case = Case("Llama threads", "LlamaForCausalLM", {"rope_scaling": ROPES["yarn"]})
    model = made(case, reference(case).checkpoint())
    results: list[mx.array] = []

    def work() -> None:
        results.append(logits(model, some_tokens(4)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].shape == (4, 300)
