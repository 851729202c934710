"""Small hand-written parts for tests: a model that says what a script tells it, in caches one can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken

from runner.cache.base import LayerMemory, Storage
from runner.cache.kv import KVCache
from runner.cache.memory import Memory
from runner.cache.recurrent import RecurrentCache
from runner.cache.rotating import RotatingKVCache
from runner.cache.slots import Slots
from runner.cache.span import Span
from runner.grammar.compiler import Grammars
from runner.loading.loaded_model import LoadedModel
from runner.models.base import Model
from runner.text.tokenizer import Tokenizer
from runner.types import Chunk, Event, GenerateRequest
from tests.parts import tiny

TINY_VOCABULARY = 258


class ScriptedModel:
    """After position p comes `script[p - start]`, before that anything, after the script's end EOS.

    The keys it writes are the token ids, so a test can ask which tokens a cache holds. `fail_at` raises, as MLX
    would, in forwards that reach this position, `fails` times.
    """

    vocab_size = TINY_VOCABULARY

    def __init__(self, script: Sequence[int], start: int, context_length: int = 512) -> None:
        self.script = list(script)
        self.start = start
        self.context_length = context_length
        self.fail_at: int | None = None
        self.fails = 1_000_000
        self.forwarded: list[int] = []  # positions of each forward, of all rows

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        batch, length = tokens.shape
        self.forwarded.append(batch * length)
        keys = tokens.astype(mx.float32).reshape(batch, 1, length, 1)
        for layer in range(2):
            self.write(layer, memory, keys, span)
            if self.fail_at is not None and span.offset + length > self.fail_at:
                self._fail_less()
                raise RuntimeError("[metal::malloc] Attempting to allocate 99 bytes\nwhich is too much")
        return (span.starts.reshape(-1, 1) + mx.arange(length))[..., None]  # [B,L,1]

    def _fail_less(self) -> None:
        self.fails -= 1
        if not self.fails:
            self.fail_at = None

    def logits(self, hidden: mx.array) -> mx.array:
        following = [*self.script, tiny.EOS_ID]
        rows = [min(max(int(p) - self.start, 0), len(following) - 1) for p in _numbers(hidden)]
        chosen = mx.array([following[row] for row in rows])
        logits = (mx.arange(self.vocab_size) == chosen[:, None]) * 10.0
        return logits.reshape(*hidden.shape[:2], self.vocab_size)

    def write(self, layer: int, memory: LayerMemory, keys: mx.array, span: Span) -> None:
        memory.attention[layer].attend(keys, keys, keys, span, scale=1.0)

    def make_memory(self) -> Memory:
        return Memory(attention={0: KVCache(), 1: KVCache()})

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return weights

    def parameters(self) -> Any:
        return {}

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> Any:
        return self


class RecurrentModel(ScriptedModel):
    """A ScriptedModel whose second layer is recurrent: its state is all tokens so far."""

    def write(self, layer: int, memory: LayerMemory, keys: mx.array, span: Span) -> None:
        if layer == 0:
            super().write(layer, memory, keys, span)
        else:
            storage = memory.recurrent[layer]
            before = [storage.state[0]] if storage.state else []
            storage.replace((mx.concatenate([*before, keys], axis=2),), span.length)

    def make_memory(self) -> Memory:
        return Memory(attention={0: KVCache()}, recurrent={1: RecurrentCache()})


class RotatingModel(ScriptedModel):
    """A ScriptedModel whose second layer forgets what lies outside its window."""

    def make_memory(self) -> Memory:
        return Memory(attention={0: KVCache(), 1: RotatingKVCache(8)})


class Alarm:
    """A cancel flag that goes up by itself after being asked `after` times."""

    def __init__(self, after: int | None = None) -> None:
        self.left = after

    def is_set(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


def tokenizer(
    eos: int | list[int] = tiny.EOS_ID,
    bos: bool = False,
    suppressed: Sequence[int] = (),
    more: Sequence[str] = (),
) -> Tokenizer:
    """One token per byte. more: special tokens beside those that every tiny one has."""
    generation = {"eos_token_id": eos, "suppress_tokens": [*suppressed]}
    made = tiny.tokenizer()
    made.add_special_tokens([AddedToken(text, special=True) for text in more])
    return Tokenizer(made.to_str(), {"add_bos_token": bos, "bos_token": tiny.BOS}, generation, {})


def loaded(model: Model, chunk: int = 8) -> LoadedModel:
    coder = tokenizer()
    return LoadedModel(
        name="fake",
        architecture="Fake",
        model=model,
        tokenizer=coder,
        grammars=Grammars(coder, model.vocab_size),
        slots=Slots(model.make_memory),
        context_length=model.context_length,
        prefill_chunk=chunk,
    )


def saying(
    text: str, prompt: str, context_length: int = 512, kind: type[ScriptedModel] = ScriptedModel
) -> LoadedModel:
    """A loaded model that answers `prompt` with `text`, then EOS."""
    coder = tokenizer()
    return loaded(kind(coder.encode(text), len(coder.encode(prompt)) - 1, context_length))


def request(prompt: str, **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **fields)


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Chunk))


def held(cache: Storage) -> list[int]:
    """The token ids that a ScriptedModel wrote into a cache and that are still alive."""
    keys = cache.arrays()[0]
    return [int(x) for x in _numbers(keys[0, 0, : cache.offset, 0])]


def _numbers(array: mx.array) -> list[float]:
    flat: list[float] = array.reshape(-1).tolist()  # type: ignore[assignment]  # typed as object
    return flat
