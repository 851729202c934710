"""config.json, tokenizer.json and the other small files of a Llama, out of the metadata of its GGUF file.

Knows nothing about tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3  # GGUF's kind of a token that no text contains
SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}

Facts = Mapping[str, Any]


def ids(facts: Facts) -> dict[str, int]:
    """Those of the special tokens, as config.json and generation_config.json name them."""
    return {f"{ours}_token_id": facts[f"tokenizer.ggml.{its}_token_id"] for ours, its in SPECIAL.items()}


def config(facts: Facts) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),  # 1e-5, stored as float32
        "rope_theta": facts["llama.rope.freq_base"],
        "vocab_size": facts["llama.vocab_size"],
        "tie_word_embeddings": True,
        **ids(facts),
    }


def tokenizer(facts: Facts) -> Tokenizer:
    """Byte-level BPE that takes digits one by one, which GGUF calls `smollm`."""
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    kinds = zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
    control = [token for token, kind in kinds if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return made


def tokenizer_config(facts: Facts) -> dict[str, Any]:
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": facts["tokenizer.ggml.add_bos_token"],
        "model_max_length": facts["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **{name.removesuffix("_id"): tokens[token] for name, token in ids(facts).items()},
        "chat_template": facts["tokenizer.chat_template"],
    }
