"""A model that is ready to answer: everything one request needs, replaced as a whole by the next load.

Knows nothing about files or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.cache.slots import Slots
from runner.grammar.compiler import Grammars
from runner.models.base import Model
from runner.text.tokenizer import Tokenizer
from runner.types import AS_COMPUTED, KVType


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Owned by the worker thread; only the tokenizer and the grammars may be used from others."""

    name: str
    architecture: str
    model: Model
    tokenizer: Tokenizer
    grammars: Grammars
    slots: Slots
    context_length: int  # tokens that a request may have; the model's own, or less
    prefill_chunk: int  # positions per prefill forward
    kv_type: KVType = AS_COMPUTED  # of the slots
