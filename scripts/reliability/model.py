"""A model of random weights that answers in milliseconds, and a tokenizer that has a token for each byte.

The weights are of one seed, so that the answer to a prompt is always the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner import models  # first: importing runner opens a fast BLAS before anything imports mlx

# isort: split
import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

END, BEGIN = "<|end|>", "<|begin|>"
END_ID, BEGIN_ID = 256, 257
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 288,  # an answer without a limit takes a few tenths of a second
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
TOKENIZER_CONFIG = {"add_bos_token": True, "bos_token": BEGIN}
GENERATION_CONFIG = {"eos_token_id": END_ID}
WEIGHTS = "model.safetensors"


def write(folder: Path) -> Path:
    """A model directory as Hugging Face has it."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "config.json": CONFIG,
        "tokenizer_config.json": TOKENIZER_CONFIG,
        "generation_config.json": GENERATION_CONFIG,
    }
    for name, value in described.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    mx.save_safetensors(str(folder / WEIGHTS), _weights(), metadata={"format": "mlx"})
    return folder


def tokenizer_json() -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in (END, BEGIN)])
    return made.to_str()


def _weights() -> dict[str, mx.array]:
    parameters: Any = tree_flatten(models.build(CONFIG).parameters())
    keys = mx.random.split(mx.random.key(0), len(parameters))
    made = {}
    for (name, like), key in zip(parameters, keys, strict=True):
        noise = mx.random.normal(like.shape, key=key)
        made[name] = 1 + 0.1 * noise if "norm" in name else 0.2 * noise
    return made
