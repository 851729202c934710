"""Models whose memory is of one kind each, with several slots."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from runner.cache.slots import Slots
from runner.loading.loaded_model import LoadedModel
from tests.parts.architectures import CASES
from tests.parts.fakes import loaded
from tests.parts.models import made
from tests.parts.references import reference

KINDS = {
    "plain": "LlamaForCausalLM",
    "windowed": "MistralForCausalLM",
    "rotating": "GptOssForCausalLM",
    "recurrent": "Qwen3NextForCausalLM",
    "latent": "Glm4MoeLiteForCausalLM",
    "shared": "Gemma4ForCausalLM",
}
"""A kind of storage -> an architecture that has it."""


def fresh(kind: str, slots: int) -> LoadedModel:
    """The model of a kind with nothing in its slots."""
    known = _model(kind)
    return replace(known, slots=Slots(known.model.make_memory, slots))


@cache
def _model(kind: str) -> LoadedModel:
    case = next(case for case in CASES.values() if case.architecture == KINDS[kind])
    return loaded(made(case, reference(case).checkpoint()))
