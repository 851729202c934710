"""The cases that every Gemma has."""

from __future__ import annotations

from runner.config.fields import Config

COMMON: dict[str, Config] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
    "hidden_act, which is not its name": {"hidden_act": "silu"},
    "attention_bias": {"attention_bias": True},
    "logits capped": {"final_logit_softcapping": 3.0},
    "window of 1": {"sliding_window": 1},
    "window of 2": {"sliding_window": 2},
}
WINDOWS = {"window of 1": (1, None), "window of 2": (2, None)}
