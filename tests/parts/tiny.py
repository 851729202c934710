"""Tiny models made on the spot: random weights, a byte-level tokenizer that knows every byte. No download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from runner import models

EOS = "<|end|>"
BOS = "<|begin|>"
EOS_ID, BOS_ID = 256, 257

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
SLOW: dict[
    str, Any
] = {  # enough to be seen at work: some milliseconds for a token, seconds for a long prompt
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}


def tokenizer() -> Tokenizer:
    """One token per byte (ids are the places of the byte-level alphabet), EOS and BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(EOS, special=True), AddedToken(BOS, special=True)])
    return made


def write(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A model directory as Hugging Face has it; `changes` go into config.json."""
    config = CONFIG | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "bos_token": BOS}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS_ID}))
    mx.save_safetensors(str(folder / "model.safetensors"), weights(config, seed), metadata={"format": "mlx"})
    return folder


NEAR_ONE = ("norm.weight", "norm_1.weight", "norm_2.weight", "layer_scalar", "scale")


def weights(config: dict[str, Any], seed: int = 0) -> dict[str, mx.array]:
    """Random parameters that give logits with a clear winner, all from one seed."""
    flat: Any = tree_flatten(models.build(config).parameters())
    keys = mx.random.split(mx.random.key(seed), len(flat))
    made = {}
    for (name, like), key in zip(flat, keys, strict=True):
        noise = mx.random.normal(like.shape, key=key)
        made[name] = 1 + 0.1 * noise if name.endswith(NEAR_ONE) else 0.2 * noise
        if name.endswith("A_log"):
            made[name] = made[name] - 3  # a memory of some thirty positions
    return made
