"""Latent attention (DeepSeek-V2, arXiv 2405.04434): a position is remembered as one vector, the latent, from which
each head's key and value are linear maps, beside one short rotated key that all heads share.

Letters beside those of `models/base.py`:

    Z  the latent        C  content part of a head's key        R  rotated part of a key        W  a head's value

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from typing import ClassVar

import mlx.core as mx

from runner.cache.base import Latents, LayerMemory
from runner.cache.span import Span
from runner.config.decoder import DecoderConfig
from runner.config.latent import LatentConfig
from runner.errors import BadModelFiles
from runner.kernels import choice
from runner.layers import nn
from runner.layers.moe import add_tensor
from runner.layers.rope import Rope
from runner.layers.shards import Cut, Shards, Side, Unit
from runner.quantization.matrix import collect, common_dtype
from runner.quantization.names import ROLES

# Of the norms inside: transformers gives them this one, whatever rms_norm_eps says.
LATENT_EPS = 1e-6


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


class Attention(nn.Module):
    """Latent attention in two orders of the same products. *Absorbed*, queries go to the latents and what they
    find comes back: little for each query, much for each pair. *Expanded*, latents become each head's keys and
    values: much for each position, little for each pair.

    A position is remembered as [latent, rotated key].
    """

    is_summed: ClassVar = True

    def __init__(self, decoder: DecoderConfig, layer: int, config: LatentConfig, rope: Rope) -> None:
        super().__init__()
        hidden, heads = decoder.hidden_size, decoder.num_attention_heads
        width = config.content + config.rotated  # of a query
        self.layer = layer
        self.heads = heads
        self.latent, self.content = config.latent, config.content
        self.rotated, self.value = config.rotated, config.value
        self.scale = config.scale
        self.rope = rope
        self.attention = choice.attention()
        self.low_rank = config.query_rank is not None
        if config.query_rank is None:
            self.q_proj = nn.Linear(hidden, heads * width, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.query_rank, bias=config.bias)
            self.q_a_layernorm = nn.RMSNorm(config.query_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(config.query_rank, heads * width, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.latent + config.rotated, bias=config.bias)
        self.kv_a_layernorm = nn.RMSNorm(config.latent, LATENT_EPS)
        self.embed_q = HeadLinear(config.content, config.latent, heads)
        self.unembed_out = HeadLinear(config.latent, config.value, heads)
        self.o_proj = nn.Linear(heads * config.value, hidden, bias=config.bias)

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """[B,L,E] -> [B,L,E]."""
        batch, length, _ = x.shape
        content, rotated = self.project_queries(x, span)
        storage = memory.latent[self.layer]
        storage.write(self.project_keys(x, span))
        attend = self.absorbed if self.absorbing_is_less(length, storage.offset) else self.expanded
        out = attend(content, rotated, span, storage)  # [B,H,L,W]
        joined = out.transpose(0, 2, 1, 3).reshape(batch, length, -1)  # [B,L,H*W]
        return self.o_proj(joined)

    def shards(self) -> Shards:
        """All heads share what is remembered, so each process remembers all of it."""
        cuts = {
            "q_b_proj" if self.low_rank else "q_proj": Cut(Side.OUTPUTS, Unit.HEADS),
            "embed_q": Cut(Side.FIRST, Unit.HEADS),
            "unembed_out": Cut(Side.FIRST, Unit.HEADS),
            "o_proj": Cut(Side.INPUTS, Unit.HEADS),
        }
        return Shards(cuts, self.heads)

    def keep(self, heads: int, key_heads: int) -> None:
        self.heads = heads

    def project_queries(self, x: mx.array, span: Span) -> tuple[mx.array, mx.array]:
        """[B,L,E] -> content [B,H,L,C], rotated [B,H,L,R]."""
        batch, length, _ = x.shape
        made = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.low_rank else self.q_proj(x)
        made = made.reshape(batch, length, self.heads, -1).transpose(0, 2, 1, 3)  # [B,H,L,C+R]
        rotated = self.rope(made[..., self.content :], span)
        if self.rope.score_scale != 1.0:  # only a part of each score is a product of rotated numbers
            rotated = rotated * self.rope.score_scale
        return made[..., : self.content], rotated

    def project_keys(self, x: mx.array, span: Span) -> mx.array:
        """[B,L,E] -> what is remembered of it, [B,1,L,Z+R]."""
        made = self.kv_a_proj_with_mqa(x)[:, None]  # [B,1,L,Z+R]
        latent = self.kv_a_layernorm(made[..., : self.latent])
        return mx.concatenate([latent, self.rope(made[..., self.latent :], span)], axis=-1)

    def absorbing_is_less(self, length: int, kept: int) -> bool:
        """Whether fewer multiplications are absorbed than expanded, for each head."""
        if length == 1:  # less from the second position on, and all that several rows at once can do
            return True
        maps, pairs = self.latent * (self.content + self.value), length * kept
        absorbed = length * maps + pairs * 2 * (self.latent + self.rotated)
        expanded = kept * maps + pairs * (self.content + self.rotated + self.value)
        return absorbed < expanded

    def absorbed(self, content: mx.array, rotated: mx.array, span: Span, storage: Latents) -> mx.array:
        """[B,H,L,C] and [B,H,L,R] over what is kept -> [B,H,L,W]. Whole rows stand for the values, because a slice
        of them would be copied.
        """
        queries = mx.concatenate([self.embed_q(content), rotated], axis=-1)  # [B,H,L,Z+R]
        single = queries.shape[2] == 1
        if single:  # one head of H positions, whose keys are read once, not H heads of one
            queries = queries.swapaxes(1, 2)  # [B,1,H,Z+R]
        out = storage.look(queries, span, scale=self.scale)
        if single:
            out = out.swapaxes(1, 2)  # [B,H,1,Z+R]
        return self.unembed_out(out[..., : self.latent])

    def expanded(self, content: mx.array, rotated: mx.array, span: Span, storage: Latents) -> mx.array:
        """The same."""
        keys = storage.kept()  # [B,1,S,Z+R]
        batch, _, kept, _ = keys.shape
        latent = mx.contiguous(keys[..., : self.latent])  # once, not for each head
        shared = mx.broadcast_to(keys[..., self.latent :], (batch, self.heads, kept, self.rotated))
        queries = mx.concatenate([content, rotated], axis=-1)  # [B,H,L,C+R]
        keys = mx.concatenate([self.embed_q.transposed(latent), shared], axis=-1)  # [B,H,S,C+R]
        values = self.unembed_out(latent)  # [B,H,S,W]
        return self.attention(queries, keys, values, scale=self.scale, mask=storage.mask(span))


def split_latent_maps(weights: dict[str, mx.array], heads: int, config: LatentConfig) -> dict[str, mx.array]:
    """`kv_b_proj` [H*(C+W),Z] as the two products that it is used in, as mlx-lm's files have it: `embed_q` [H,Z,C]
    and `unembed_out` [H,W,Z]. A quantized one becomes floats, since its groups run along Z.
    """
    shape = (heads * (config.content + config.value), config.latent)
    common = common_dtype(weights)
    whole: dict[str, dict[str, mx.array]] = {}
    made: dict[str, mx.array] = {}
    for name, array in weights.items():
        path, dot, part = name.partition(".kv_b_proj.")
        if dot and part in ROLES:
            whole.setdefault(path, {})[name] = array
        else:
            made[name] = array
    for path, tensors in whole.items():
        both = _floats(f"{path}.kv_b_proj", tensors, shape, common).reshape(heads, -1, config.latent)
        keys, values = mx.split(both, [config.content], axis=1)
        add_tensor(made, f"{path}.embed_q.weight", mx.contiguous(keys.swapaxes(1, 2)))
        add_tensor(made, f"{path}.unembed_out.weight", mx.contiguous(values))
    return made


def _floats(path: str, tensors: dict[str, mx.array], shape: tuple[int, ...], common: mx.Dtype) -> mx.array:
    name = f"{path}.weight"
    packed = collect(tensors, {name: shape}, {})
    if path in packed:
        return packed[path].dequantized(packed[path].dtype(common))
    if tensors[name].shape != shape:
        raise BadModelFiles(f"wrong shapes: {name} {tuple(tensors[name].shape)}, expected {shape}")
    return tensors[name]
