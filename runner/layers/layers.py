"""The parts that architectures are put together from. Shapes: see the legend in `models/base.py`.

A model is a pre-norm decoder here: `CausalLM` holds the names at the top of a checkpoint, `Decoder` runs the
blocks, an architecture's file says what a block is made of.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from runner.cache.base import Caches, LayerCache, Mask, Storage
from runner.cache.kv import KVCache
from runner.cache.windowed import WindowedKVCache
from runner.config.fields import DecoderConfig
from runner.errors import BadModelFiles
from runner.layers import nn
from runner.layers.rope import Rope


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: H/K query heads share a key/value head."""

    def __init__(self, config: DecoderConfig, rope: Rope, *, qkv_bias: bool, o_bias: bool) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale = head_dim**-0.5 * rope.score_scale
        self.rope = rope
        self.q_proj = nn.Linear(hidden, self.heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(self.heads * head_dim, hidden, bias=o_bias)

    def __call__(self, x: mx.array, mask: Mask, cache: LayerCache, offset: mx.array) -> mx.array:
        """[B,L,E] -> [B,L,E]; `offset` is the cache's, as an int32 scalar shared by all layers."""
        queries, keys, values = self.project(x)
        return self.attend(queries, keys, values, mask, cache, offset)

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """[B,L,E] -> queries [B,L,H,D], keys [B,L,K,D], values [B,L,K,D]."""
        batch, length, _ = x.shape
        queries = self.q_proj(x).reshape(batch, length, self.heads, -1)
        keys = self.k_proj(x).reshape(batch, length, self.kv_heads, -1)
        values = self.v_proj(x).reshape(batch, length, self.kv_heads, -1)
        return queries, keys, values

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        mask: Mask,
        cache: LayerCache,
        offset: mx.array,
    ) -> mx.array:
        """Rotate, remember, attend: the shapes of `project` -> [B,L,E]."""
        batch, length, _, _ = queries.shape
        queries = self.rope(queries.transpose(0, 2, 1, 3), offset)  # [B,H,L,D]
        keys = self.rope(keys.transpose(0, 2, 1, 3), offset)  # [B,K,L,D]
        keys, values = cache.update(keys, values.transpose(0, 2, 1, 3))  # [B,K,S,D]
        out = self.look(queries, keys, values, mask)  # [B,H,L,D]
        joined = out.transpose(0, 2, 1, 3).reshape(batch, length, -1)  # [B,L,H*D]
        return self.o_proj(joined)

    def look(self, queries: mx.array, keys: mx.array, values: mx.array, mask: Mask) -> mx.array:
        """[B,H,L,D] over [B,K,S,D] -> [B,H,L,D]."""
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)


class HeadLinear(nn.Module):
    """H linear maps without bias, one for each head."""

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.weight = mx.zeros((heads, outputs, inputs))

    def __call__(self, x: mx.array) -> mx.array:
        """[B,H,L,inputs], or [B,1,L,inputs] for all heads -> [B,H,L,outputs]."""
        return x @ self.weight.swapaxes(-1, -2)

    def transposed(self, x: mx.array) -> mx.array:
        """[B,H,L,outputs], or [B,1,L,outputs] for all heads, times the same matrices -> [B,H,L,inputs]."""
        return x @ self.weight


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, *, bias: bool = False) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, width, bias=bias)
        self.up_proj = nn.Linear(hidden, width, bias=bias)
        self.down_proj = nn.Linear(width, hidden, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))  # [B,L,E] over [B,L,F]


def _silu_times(gate: mx.array, up: mx.array) -> mx.array:
    product: mx.array = nn.silu(gate) * up
    return product


swiglu = mx.compile(_silu_times, shapeless=True)  # one kernel, whatever the length


Attend = Callable[[mx.array, Mask, LayerCache, mx.array], mx.array]
"""The first half of a block, called as `Attention` is. Every kind is an `nn.Module`."""
MLP = Callable[[mx.array], mx.array]
"""The second half of a block, [B,L,E] -> [B,L,E]. Every kind is an `nn.Module`."""


class Block(nn.Module):
    """One layer: attention, then MLP, each on a normed copy and added to what came in."""

    def __init__(self, config: DecoderConfig, attention: Attend, mlp: MLP) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, x: mx.array, mask: Mask, cache: LayerCache, offset: mx.array) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), mask, cache, offset)  # [B,L,E]
        return x + self.mlp(self.post_attention_layernorm(x))  # [B,L,E]


Layer = Callable[..., mx.array]
"""[B,L,E] and what its Decoder gives it -> [B,L,E]. Here that is a mask, the layer's storage and its offset. Every
kind is an `nn.Module`; Block is one."""


class Decoder(nn.Module):
    """Embedding, blocks, norm. `windows` has for each block its attention window, or None for no limit."""

    def __init__(self, config: DecoderConfig, blocks: Sequence[Layer], windows: Windows) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = list(blocks)
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        # All layers are level and equal windows make equal masks, so the first of each kind is asked, once.
        kinds = list(dict.fromkeys(windows))
        self._first_of_kind = tuple(windows.index(kind) for kind in kinds)
        self._kind = tuple(kinds.index(window) for window in windows)

    def __call__(self, tokens: mx.array, caches: Caches) -> mx.array:
        x = self.embed(tokens)  # [B,L,E]
        masks = [caches[layer].mask(tokens.shape[1]) for layer in self._first_of_kind]
        offset = mx.array(caches[0].offset, mx.int32)
        for layer, kind, cache in zip(self.layers, self._kind, caches, strict=True):
            x = layer(x, masks[kind], cache, offset)
        normed: mx.array = self.norm(x)
        return normed

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
        decoder: Callable[[DecoderConfig, Sequence[Layer], Windows], Decoder] = Decoder,
    ) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.context_length = config.max_position_embeddings
        self.model = decoder(config, blocks, windows)
        self.tied = config.tie_word_embeddings
        if not self.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._windows = tuple(windows)

    def __call__(self, tokens: mx.array, caches: Caches) -> mx.array:
        return self.model(tokens, caches)

    def logits(self, hidden: mx.array) -> mx.array:
        head: Callable[[mx.array], mx.array] = (
            self.model.embed_tokens.as_linear if self.tied else self.lm_head
        )
        return head(hidden)

    def make_caches(self) -> Sequence[Storage]:
        return [KVCache() if window is None else WindowedKVCache(window) for window in self._windows]

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


HEAD = "lm_head."  # a prefix, since a quantized head is several tensors

Windows = Sequence[int | None]
"""For each layer how many positions back a query sees, itself included; None for all, 0 for a recurrent layer."""
