"""What stands around the layers of a model. `Decoder` runs the blocks, `CausalLM` holds the names at the top of a
checkpoint; what a block is made of is said in an architecture's file. Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import mlx.core as mx

from runner.cache.base import KeyValues, LayerMemory
from runner.cache.kv import KVCache
from runner.cache.memory import Memory
from runner.cache.span import Span
from runner.cache.windowed import WindowedKVCache
from runner.config.decoder import DecoderConfig
from runner.errors import BadModelFiles
from runner.kernels import pacing
from runner.layers import nn

Layer = Callable[..., mx.array]
"""[B,L,E] and what its Decoder gives it -> [B,L,E]. Here that is the span and the memory. Every kind is an
`nn.Module`; Block is one."""

Windows = Sequence[int | None]
"""For each layer how many positions back a query sees, itself included; None for all, 0 for a recurrent layer."""

HEAD = "lm_head."  # a prefix, since a quantized head is several tensors


class Decoder(nn.Module):
    """Embedding, blocks, norm."""

    def __init__(self, config: DecoderConfig, blocks: Sequence[Layer]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = list(blocks)
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        x = self.embed(tokens)  # [B,L,E]
        with self.paced(tokens):
            for layer in self.layers:
                x = layer(x, span, memory)
        normed: mx.array = self.norm(x)
        return normed

    @staticmethod
    def paced(tokens: mx.array) -> AbstractContextManager[None]:
        """Around the layers, which a long prompt goes through no faster than the device."""
        return pacing.paced(tokens.size)

    def embed(self, tokens: mx.array) -> mx.array:
        """[B,L] -> [B,L,E]."""
        embedded: mx.array = self.embed_tokens(tokens)
        return embedded


class CausalLM(nn.Module):
    """A Model (see `models/base.py`) over a Decoder, with a head of its own or the embedding's."""

    def __init__(
        self,
        config: DecoderConfig,
        blocks: Sequence[Layer],
        windows: Windows,
        decoder: Callable[[DecoderConfig, Sequence[Layer]], Decoder] = Decoder,
    ) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.context_length = config.max_position_embeddings
        self.model = decoder(config, blocks)
        self.tied = config.tie_word_embeddings
        if not self.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._windows = tuple(windows)

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        return self.model(tokens, span, memory)

    def logits(self, hidden: mx.array) -> mx.array:
        head: Callable[[mx.array], mx.array] = (
            self.model.embed_tokens.as_linear if self.tied else self.lm_head
        )
        return head(hidden)

    def make_memory(self) -> Memory:
        return Memory(attention=storages(self._windows, WindowedKVCache))

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Checkpoint names -> parameter names; also settles whether the head is tied.

        Dropped: the prefix `language_model.` that multimodal checkpoints have, tables of rotary frequencies that
        old ones carry (we compute them), and a tied model's copy of the embedding under `lm_head`. A model that
        says it is untied but brings no head is tied: files say so by leaving it out, more often than by the flag.
        """
        renamed: dict[str, mx.array] = {}
        for name, array in weights.items():
            short = name.removeprefix("language_model.")
            if short in renamed:
                raise BadModelFiles(f"tensor {short} is there twice, once as language_model.{short}")
            if not short.endswith("rotary_emb.inv_freq"):
                renamed[short] = array
        if not self.tied and not any(name.startswith(HEAD) for name in renamed):
            self.tied = True
            del self.lm_head
        return {name: array for name, array in renamed.items() if not (self.tied and name.startswith(HEAD))}


def storages(windows: Windows, windowed: Callable[[int], KeyValues]) -> dict[int, KeyValues]:
    """For each layer the storage of its keys and values."""
    return {layer: KVCache() if window is None else windowed(window) for layer, window in enumerate(windows)}


def soft_capped(logits: mx.array, cap: float | None) -> mx.array:
    """Softly between -cap and cap (Gemma 2, arXiv 2408.00118); None: as they are."""
    return logits if cap is None else mx.tanh(logits / cap) * cap
