"""Which tensors `import --quantize` quantizes, and as what: by their names and shapes alone.

The rule is that of Ollama's importer (v0.34) for the architectures that it has no rule of its own for, and for
Qwen3.5:

- matrices named *.weight, and stacks of them in a mixture of experts, are quantized as was asked;
- in the source's precision stay norms, biases, embeddings, routers, convolutions, what makes rates and decays in
  linear attention, all of vision and audio, what has fewer than 1024 numbers, and what has rows that the group size
  does not divide;
- the head gets 8 bits: int8 beside int4, mxfp8 beside mxfp4 and nvfp4;
- so do v_proj, k_proj and down_proj of every layer where 4 bits were asked for, but of experts only beside int4.

Ours are the names of routers and projectors of models that Ollama does not run; kv_b_proj, which models take apart
and so need as numbers; and 8 bits for two tables that are much of a small model: an embedding that is the head, too
(Ollama does so for Gemma 4 only), and embeddings per layer.

Knows nothing about files, arrays or what an architecture does with its tensors.
"""

from __future__ import annotations

import math
import re

from runner.quantization.settings import KINDS

EIGHT_BITS = {"int4": "int8", "int8": "int8", "mxfp4": "mxfp8", "mxfp8": "mxfp8", "nvfp4": "mxfp8"}
SMALLEST = 1024  # numbers
KEPT = re.compile(
    r"norm|ln_|embed|kv_b_proj|linear_attn\.in_proj_(a|b|ba)\.|"
    r"vision|visual|audio|mm_projector|multi_modal_projector"
)
ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)\.")
EXPERTS = re.compile(r"\.(experts|switch_mlp|shared_experts)\.")
HEAD = re.compile(r"(^|\.)(lm_head|embed_tokens_per_layer)\.weight$")
EMBEDDING = re.compile(r"(^|\.)embed_tokens\.weight$")
SENSITIVE = re.compile(r"\.v_proj|\.k_proj|down_proj")


def kind_of(name: str, shape: tuple[int, ...], asked: str, *, tied: bool = False) -> str | None:
    """A key of KINDS, or None for a tensor that stays as it is. name: in a checkpoint, with its `.weight`. tied:
    whether the embedding is the head.
    """
    experts = EXPERTS.search(name) is not None
    if not name.endswith(".weight") or len(shape) != 2 + (experts and len(shape) == 3):
        return None
    if math.prod(shape) < SMALLEST:
        return None
    better = EIGHT_BITS[asked]
    if HEAD.search(name) or (tied and EMBEDDING.search(name)):
        return better if fits(shape, better) else None
    if KEPT.search(name) or ROUTER.search(name):
        return None
    if not fits(shape, asked):
        return None
    sensitive = SENSITIVE.search(name) and (asked == "int4" or not experts)
    return better if sensitive and fits(shape, better) else asked


def fits(shape: tuple[int, ...], kind: str) -> bool:
    """Whether rows are whole groups."""
    return shape[-1] % KINDS[kind].group_size == 0
