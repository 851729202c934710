"""Fields of config.json that nobody asked for: which of them may be passed over.

An architecture reads the fields that it knows (`fields.Asked` remembers which). Of the others, those that change
the maths of some architecture are listed here with the values at which they change nothing; any other value is
refused, since a model that computes something else than it was made for still answers, only worse. A field in no
table is passed over: files carry much that has nothing to do with the maths, and what comes with tensors of its own
(a shared expert, say) is found by them.

The names are those of configuration classes in Hugging Face's transformers, older ones included, and of well-known
models that came with code of their own.

Knows nothing about arrays or architectures.
"""

from __future__ import annotations

import logging

from runner.config.fields import Asked, shown
from runner.errors import UnsupportedModel

log = logging.getLogger(__name__)

HARMLESS_AT: dict[str, tuple[object, ...]] = {
    # Scores and logits: a factor, a cap, a temperature.
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "attn_temperature_tuning": (False, 0),
    "clip_qkv": (),
    "dim_model_base": (),
    "final_logit_softcapping": (),
    "key_multiplier": (1,),
    "lm_head_multiplier": (1,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "logits_soft_cap": (),
    "output_logit_soft_cap": (),
    "query_pre_attn_scalar": (),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_logn_attn": (False,),
    # The stream between the layers.
    "apply_residual_connection_post_layernorm": (False,),
    "attention_in_multiplier": (1,),
    "attention_out_multiplier": (1,),
    "embedding_multiplier": (1,),
    "mlp_multipliers": (1,),
    "mup_enabled": (False,),
    "parallel_attn": (False,),
    "residual_multiplier": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    "scale_embedding": (False,),
    "use_parallel_residual": (False,),
    # What a position sees.
    "add_cross_attention": (False,),
    "attention_chunk_size": (),
    "attention_k_eq_v": (False,),
    "cross_attention_hidden_size": (),
    "cross_attention_layers": (),
    "full_attention_interval": (1,),
    "global_attn_every_n_layers": (1,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "layer_types": ("full_attention",),
    "num_kv_shared_layers": (0,),
    "prefix_lm": (False,),
    "pruned_heads": (),
    "sliding_window_pattern": (),
    "use_bidirectional_attention": (False,),
    "use_cla": (False,),
    "use_sliding_window": (False,),
    # Where it is.
    "alibi": (False,),
    "layer_rope_theta": (),
    "mrope_section": (),
    "no_rope_layer_interval": (0,),
    "no_rope_layers": (1,),  # of each layer: 1 if it has rotary positions
    "original_max_position_embeddings": (),
    "partial_rotary_factor": (1,),
    "position_embedding_type": ("rope",),
    "rope_interleave": (False,),
    "rope_interleaved": (False,),
    "rope_local_base_freq": (),
    "rope_ratio": (1,),
    "rotary_dim": (),
    "rotary_emb_base": (),
    "rotary_pct": (1,),
    "use_alibi": (False,),
    "use_dynamic_ntk": (False,),
    "use_mrope": (False,),
    # Projections, norms, activations.
    "attention_bias": (False,),
    "attn_output_gate": (False,),
    "bias": (False,),
    "hidden_activation": ("silu", "swish"),
    "lm_head_bias": (False,),
    "mlp_bias": (False,),
    "qk_layer_norms": (False,),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "qkv_bias": (False,),
    "swiglu_limit": (),
    "use_bias": (False,),
    "use_qk_norm": (False,),
    "use_qkv_bias": (False,),
    # Mixtures of experts.
    "moe_apply_router_weight_on_input": (False,),
    "moe_router_logit_softcapping": (0,),
    "n_group": (1,),
    "route_scale": (1,),
    "routed_scaling_factor": (1,),
    "router_logit_softcapping": (0,),
    "router_scaling_factor": (1,),
    "scoring_func": ("softmax",),
    "topk_group": (1,),
    "topk_method": ("greedy",),
    "zero_expert_num": (0,),
    # How weights are stored, beside what the loader reads.
    "compression_config": (),
}
"""Null is harmless always, a list or an object if all that is in it is."""

HARMLESS = (
    # What it is called and how it is stored.
    *("architectures", "auto_map", "dtype", "torch_dtype", "model_type", "name_or_path", "_name_or_path"),
    *("quantization", "quantization_config", "transformers_version"),
    # How it was trained.
    *("attention_dropout", "hidden_dropout", "id2label", "initializer_range", "label2id"),
    *("output_router_logits", "pretraining_tp", "problem_type", "router_aux_loss_coef"),
    # How it is run.
    *("_attn_implementation_autoset", "_sliding_window_pattern", "cache_implementation"),
    *("chunk_size_feed_forward", "output_attentions", "output_hidden_states"),
    *("return_dict", "use_cache"),
    # What it sees beside text.
    *("audio_config", "mm_tokens_per_image", "vision_config"),
)
"""Well-known fields that change no logits; others that were not read are worth a line in the log."""

HARMLESS_ENDINGS = ("_token_id", "_token_index")
MAX_LINE = 1_000  # characters in the log


def refuse_unread(asked: Asked, architecture: str) -> None:
    """Raises UnsupportedModel, naming field and value, for what would change the maths and was not read."""
    unknown = []
    for where, name, value in asked.unread():
        if name not in HARMLESS_AT:
            well_known = name in HARMLESS or name.endswith(HARMLESS_ENDINGS)
            unknown += [] if well_known or value is None else [name]
        elif not _is_harmless(value, HARMLESS_AT[name]):
            raise UnsupportedModel(f"{where}: {name} {shown(value)} is not supported with {architecture}")
    if unknown:
        log.debug("Config fields not read", extra={"fields": ", ".join(sorted(unknown))[:MAX_LINE]})


def _is_harmless(value: object, harmless: tuple[object, ...]) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    items = value if isinstance(value, list) else [value]
    return all(item is None or _is_one_of(item, harmless) for item in items)


def _is_one_of(value: object, values: tuple[object, ...]) -> bool:
    """In Python true equals 1, in a config it does not."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)
