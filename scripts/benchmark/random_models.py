"""Models of random weights, one of each kind of memory: all keys and values, windows, states.

They are small and their contexts are long: what they answer means nothing, and how long it takes does. Each token
of their vocabulary is a printable character or a mark of ChatML, so that an answer is again the tokens that it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from benchmark import inside

MARKS = ("<|im_end|>", "<|im_start|>")
CHARACTERS = [chr(code) for code in range(33, 127)] + [
    "Ġ",
    "Ċ",
]  # a space and a new line, as byte-level files have it
WEIGHTS = "model.safetensors"
COMMON: dict[str, Any] = {
    "vocab_size": len(CHARACTERS) + len(MARKS),
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 65_536,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
WINDOW = {"sliding_window": 512, "query_pre_attn_scalar": 64, "sliding_window_pattern": 6}
STATE = {
    "full_attention_interval": 4,
    "partial_rotary_factor": 0.25,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "random-plain": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"},
    "random-gemma": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        **WINDOW,
    },
    "random-qwen3.5": {
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5",
        "hidden_act": "silu",
        "tie_word_embeddings": False,  # the weights have a head of their own, which mlx-lm refuses beside `true`
        **STATE,
    },
}


def written(name: str, folder: Path) -> Path:
    """The directory, made if it is not there or older than this file."""
    weights = folder / WEIGHTS
    made = weights.exists() and weights.stat().st_mtime > Path(__file__).stat().st_mtime
    return folder if made else write(name, folder)


def write(name: str, folder: Path) -> Path:
    """A model directory as Hugging Face has it."""
    config = COMMON | CONFIGS[name]
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    ends = [made.token_to_id(mark) for mark in MARKS]
    described = {
        "config.json": config,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKS[0]},
        "generation_config.json": {"eos_token_id": ends},  # all that `endless` has to ban
    }
    for file, value in described.items():
        (folder / file).write_text(json.dumps(value))
    made.save(str(folder / "tokenizer.json"))
    inside.save_random(config, folder / WEIGHTS)
    return folder


def tokenizer() -> Tokenizer:
    made = Tokenizer(BPE(vocab={char: number for number, char in enumerate(CHARACTERS)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return made
