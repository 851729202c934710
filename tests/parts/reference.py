"""Tiny random models, twice: ours, and mlx-lm's with the same weights as an independent reference.

Names and shapes of the weights come from mlx-lm's parameter tree, so that ours are checked too. Where mlx-lm lacks
a feature its parts are put together by hand here, and the docstring says so.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.nn.layers.positional_encoding import RoPE
from mlx.utils import tree_flatten

from runner.cache.base import Caches
from runner.config.fields import Config
from runner.models import build
from runner.models.base import Model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their imports warn about their own dependencies
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import KVCache
    from mlx_lm.models.rope_utils import initialize_rope

VOCABULARY = 300
TINY: Config = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,  # not hidden_size / heads, nor a divisor-friendly 64
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
MODEL_TYPES = {
    "Gemma3ForCausalLM": "gemma3_text",
    "Gemma3ForConditionalGeneration": "gemma3_text",
    "GLM4MoeLite": "glm4_moe_lite",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
    "Gemma4ForCausalLM": "gemma4_text",
    "Gemma4ForConditionalGeneration": "gemma4_text",
    "Gemma4UnifiedForCausalLM": "gemma4_text",
    "Gemma4UnifiedForConditionalGeneration": "gemma4_text",
    "GptOssForCausalLM": "gpt_oss",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",  # so does mlx-lm
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3NextForCausalLM": "qwen3_next",
    "Qwen3NextForConditionalGeneration": "qwen3_next",
    "Qwen3NextMoeForCausalLM": "qwen3_next",
    "Qwen3NextMoeForConditionalGeneration": "qwen3_next",
    "Qwen3_5ForCausalLM": "qwen3_5",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5_moe",
    "SmolLM3ForCausalLM": "smollm3",
    "gemma4_unified": "gemma4_text",
}
HYBRIDS = ("qwen3_next", "qwen3_5", "qwen3_5_moe")


@dataclass(frozen=True)
class Case:
    """One tiny model: what its config.json says beyond TINY, and what the reference must be told otherwise."""

    name: str
    architecture: str
    fields: Config = field(default_factory=dict)
    without: tuple[str, ...] = ()  # fields of TINY that it leaves out
    windows: tuple[int | None, ...] = (None, None)  # the reference's, by hand; one for each cache
    rotated: int | None = None  # partial rotary, by hand

    @property
    def config(self) -> Config:
        given = {**TINY, **self.fields}
        text = {name: value for name, value in given.items() if name not in self.without}
        if self.architecture.endswith("ForConditionalGeneration"):
            text = {"text_config": text}
        return {"architectures": [self.architecture], **text}


class Reference:
    """mlx-lm's model of a case, with random weights that depend on the case's name only."""

    def __init__(self, case: Case) -> None:
        self.windows = case.windows
        self.gpt_oss = case.architecture.startswith("GptOss")
        self.hybrid = MODEL_TYPES[case.architecture] in HYBRIDS
        self.gemma = case.architecture.startswith("Gemma3")
        self.glm = MODEL_TYPES[case.architecture] == "glm4_moe_lite"
        self.gemma4 = MODEL_TYPES[case.architecture] == "gemma4_text"
        self.cap: float | None = case.fields.get("final_logit_softcapping")
        self.model = _mlx_lm_model(case)
        self.weights = _random_weights(self.model, seed=case.name)
        if (
            self.gemma4
        ):  # nothing but this norm keeps its scores small, and large ones make noise of roundings
            for name in self.weights:
                if name.endswith("q_norm.weight"):
                    self.weights[name] = self.weights[name] / 4
        self.foreign = _foreign_biases(case)
        for name in self.foreign & self.weights.keys():
            self.weights[name] = mx.zeros(self.weights[name].shape)
        self.model.load_weights(list(self.weights.items()))
        self.head = "lm_head.weight" in self.weights

    def logits(self, tokens: Sequence[int]) -> mx.array:
        """[T,V] of one forward from an empty cache. The layers are called one by one, since mlx-lm has windows
        in its Llama only; their masks are its own.
        """
        if self.gemma4:  # has windows, and layers that are not called alike
            whole: mx.array = self.model(mx.array([tokens]))
            return whole[0]
        x = self.model.model.embed_tokens(mx.array([tokens]))
        if self.gemma:
            x = x * x.shape[-1] ** 0.5  # by hand: mlx-lm rounds the factor to bfloat16 even here
        for layer, window in zip(self.model.layers, self.windows, strict=True):
            if self.hybrid and layer.is_linear:
                x = layer(x, None, None)
            else:
                x = layer(x, create_causal_mask(len(tokens), window_size=window), new_mlx_lm_cache())
        x = self.model.model.norm(x)
        tied = not self.head
        logits: mx.array = self.model.model.embed_tokens.as_linear(x) if tied else self.model.lm_head(x)
        if self.cap is not None:
            logits = self.cap * mx.tanh(logits / self.cap)  # by hand: mlx-lm's Gemma 3 has none
        return logits[0]

    def checkpoint(self) -> dict[str, mx.array]:
        """The weights as a checkpoint of the case's architecture has them."""
        kept = {name: array for name, array in self.weights.items() if name not in self.foreign}
        if self.gemma4:
            return _halves_together(kept)
        if self.glm:
            kept = _latent_maps_together(kept)
        if self.hybrid:
            return _published(kept)
        return _gate_and_up_together(kept) if self.gpt_oss else _each_expert_apart(kept)


def new_mlx_lm_cache() -> Any:
    return KVCache()  # type: ignore[no-untyped-call]  # mlx-lm leaves it open


def load(case: Case, reference: Reference) -> Model:
    """Our model of the case with the reference's weights, by the way the loader goes."""
    model = build(case.config)
    model.load_weights(list(model.rename(reference.checkpoint()).items()), strict=True)
    return model


def feed(model: Model, caches: Caches, tokens: Sequence[int], sizes: Sequence[int] = ()) -> mx.array:
    """Logits [T,V] of the tokens behind what the caches hold, in chunks of the given sizes, over and over."""
    rows: list[mx.array] = []
    start = 0
    turns = [*sizes] or [len(tokens)]
    while start < len(tokens):
        size = turns[len(rows) % len(turns)]
        rows.append(model.logits(model(mx.array([tokens[start : start + size]], mx.int32), caches))[0])
        mx.eval(rows[-1])
        start += size
    return mx.concatenate(rows)


def some_tokens(count: int, seed: str = "tokens") -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(count)]


def difference(a: mx.array, b: mx.array) -> float:
    """The largest |a - b|. Not-a-number anywhere makes it infinite."""
    assert a.shape == b.shape
    worst = mx.max(mx.abs(a - b)).item()
    assert isinstance(worst, float)
    return worst if worst == worst else float("inf")


def _mlx_lm_model(case: Case) -> Any:
    kind = MODEL_TYPES[case.architecture]
    if kind == "gemma3_text":
        return _mlx_lm_gemma(case)
    if kind == "glm4_moe_lite":
        return _mlx_lm_glm(case)
    if kind in HYBRIDS:
        return _mlx_lm_hybrid(case, kind)
    if kind == "gemma4_text":
        return _mlx_lm_gemma4(case)
    config = _spelled_for_mlx_lm(case.config)
    if kind == "smollm3":
        config = _with_smollm3_defaults(config)
    if case.architecture == "Qwen2ForCausalLM" and config.get("head_dim"):
        kind = "llama"  # mlx-lm's Qwen2 overlooks head_dim; its Llama with biases is the same otherwise
        config["attention_bias"] = True
    if kind == "qwen3_moe":
        config = _with_moe_fields(config)
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    model = module.Model(module.ModelArgs.from_dict({**config, "model_type": kind}))
    if kind == "gpt_oss" and config["tie_word_embeddings"]:
        model.pop("lm_head")
    for layer in model.layers:
        if case.rotated is not None:
            layer.self_attn.rope = RoPE(case.rotated, base=config["rope_theta"])
        if kind == "qwen3_moe" and config.get("rope_scaling"):
            layer.self_attn.rope = _scaled_rope(config)
        if kind in ("qwen3", "qwen3_moe") and config.get("attention_bias"):
            _add_biases(layer.self_attn)
    return model


def _mlx_lm_gemma(case: Case) -> Any:
    """mlx-lm's Gemma 3 knows a pattern of layers only, nothing of `rope_parameters`, biases and the flag of a tied
    head, and has other defaults than transformers.
    """
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    defaults: Config = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, **heads}
    config = case.config.get("text_config", case.config)
    config = defaults | {name: value for name, value in config.items() if value is not None}
    module = importlib.import_module("mlx_lm.models.gemma3_text")
    model = module.Model(module.ModelArgs.from_dict({**config, "model_type": "gemma3_text"}))
    for layer, kind in zip(model.layers, config.get("layer_types", ()), strict=False):
        beside = {
            "full_attention": {"rope_theta": config["rope_theta"], **config.get("rope_scaling", {})},
            "sliding_attention": {"rope_theta": config["rope_local_base_freq"]},
        }[kind]
        scaling = beside | config.get("rope_parameters", {}).get(kind, {})
        layer.self_attn.rope = _scaled_rope(
            {**config, "rope_theta": scaling["rope_theta"], "rope_scaling": scaling}
        )
    if config.get("attention_bias"):
        for layer in model.layers:
            _add_biases(layer.self_attn)
    if config["tie_word_embeddings"]:
        model.pop("lm_head")
        model.tie_word_embeddings = True
    return model


def _mlx_lm_glm(case: Case) -> Any:
    """mlx-lm's GLM takes the norms inside attention by the config's eps, rotates neighbours only, has no list of
    sparse layers and no flag of a tied head; to experts of a group that is out it gives 0, which is what -infinity
    is to transformers while the others are above 0.
    """
    config = _spelled_for_mlx_lm(case.config)
    config |= {
        "num_local_experts": None,
        "n_routed_experts": config.get("num_local_experts", config.get("n_routed_experts")),
    }
    module = importlib.import_module("mlx_lm.models.glm4_moe_lite")
    args = module.ModelArgs.from_dict({**config, "model_type": "glm4_moe_lite"})
    model = module.Model(args)
    kinds = config.get("mlp_layer_types") or [None] * len(model.layers)
    for layer, kind in zip(model.layers, kinds, strict=True):
        attention = layer.self_attn
        attention.kv_a_layernorm.eps = 1e-6
        if args.q_lora_rank is not None:
            attention.q_a_layernorm.eps = 1e-6
        if not config.get("rope_interleave", True):
            attention.rope.traditional = False
        if kind:
            layer.mlp = (module.Glm4MoeLiteMoE if kind == "sparse" else module.Glm4MoeLiteMLP)(args)
    if args.tie_word_embeddings:
        model.pop("lm_head")
    return model


NEXT_DEFAULTS: Config = {  # of transformers, which mlx-lm must be told
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}


def _mlx_lm_hybrid(case: Case, kind: str) -> Any:
    """mlx-lm's Qwen3-Next knows neither `rope_parameters` nor `text_config`, neither it nor Qwen3.5 `layer_types`,
    whose 5 has a theta of its own by default. A text model is taken out of its multimodal one.
    """
    config = NEXT_DEFAULTS | case.config.get("text_config", case.config)
    rope = {
        "rope_type": "default",
        "rope_theta": config.get("rope_theta", 10_000.0),
        "partial_rotary_factor": config["partial_rotary_factor"],
        **(config.get("rope_parameters") or {}),
    }
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    if kind == "qwen3_next":
        flat = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor")}
        scaling = None if rope["rope_type"] == "default" else rope
        args = {**config, **flat, "rope_scaling": scaling, "model_type": kind}
        model = module.Model(module.ModelArgs.from_dict(args))
    else:
        args = {**config, "rope_parameters": rope, "model_type": kind}
        whole = module.Model(module.ModelArgs.from_dict(args))
        model = whole.language_model
        module = importlib.import_module("mlx_lm.models.qwen3_5")
    for layer, name in enumerate(config.get("layer_types") or ()):
        interval = config["full_attention_interval"]
        of_kind = interval - 1 if name == "full_attention" else 0
        block = getattr(module, "Qwen3NextDecoderLayer" if kind == "qwen3_next" else "DecoderLayer")
        model.model.layers[layer] = block(model.args, of_kind)
    return model


GEMMA4_DEFAULTS: Config = {  # transformers', where mlx-lm's are those of one published model
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def _mlx_lm_gemma4(case: Case) -> Any:
    """mlx-lm's Gemma 4 has other defaults than transformers, does not know `per_layer_config` and biases, leaves
    the last layer what it is, and has no rope but those of the published models.
    """
    config = GEMMA4_DEFAULTS | case.config.get("text_config", case.config)
    if "unified" in case.architecture.lower():
        config = {"hidden_size_per_layer_input": 0, "sliding_window": 1024} | config
    listed = config.get("per_layer_config", {})
    for layer in listed.values():
        config |= {"global_head_dim": layer["head_dim"]}
        config |= {"num_global_key_value_heads": layer["num_key_value_heads"]}
    module = importlib.import_module("mlx_lm.models.gemma4_text")
    args = module.ModelArgs.from_dict({**config, "model_type": "gemma4_text"})
    args.layer_types[-1] = "full_attention"
    model = module.Model(args)
    for layer in model.layers:
        attention = layer.self_attn
        scaling = args.rope_parameters[attention.layer_type]
        if scaling["rope_type"] not in ("default", "proportional"):
            rope = {"head_dim": attention.head_dim, "rope_scaling": scaling}
            attention.rope = _scaled_rope({**config, "rope_theta": scaling["rope_theta"], **rope})
        if config.get("attention_bias"):
            _add_biases(attention)
    return model


def _spelled_for_mlx_lm(config: Config) -> Config:
    """mlx-lm's Llama and Qwen2 do not know `rope_parameters`, its Qwen3 wants a theta, none knows the defaults."""
    config = {name: value for name, value in config.items() if name not in ("layer_types", "sliding_window")}
    scaling = config.pop("rope_parameters", None) or config.get("rope_scaling")
    if scaling:
        config["rope_theta"] = scaling.get("rope_theta", config.get("rope_theta"))
        config["rope_scaling"] = (
            scaling if scaling.get("rope_type", scaling.get("type")) != "default" else None
        )
    return config


def _with_moe_fields(config: Config) -> Config:
    """mlx-lm's Qwen3-MoE wants every field, and knows the experts' number under its older name only."""
    named = config.get("num_experts", config.get("num_local_experts"))
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {**config, "num_experts": named, "head_dim": width}


def _with_smollm3_defaults(config: Config) -> Config:
    """mlx-lm's SmolLM3 has the theta of its Llama by default, and wants a list of the layers' number exactly."""
    flags = config.get("no_rope_layers")
    return {
        **config,
        "rope_theta": config.get("rope_theta") or 2_000_000.0,
        "no_rope_layers": flags and flags[: config["num_hidden_layers"]],
    }


def _scaled_rope(config: Config) -> Any:
    """mlx-lm's Qwen3-MoE overlooks rope_scaling, which its Llama follows; Gemma 3 has two ropes."""
    return initialize_rope(
        config["head_dim"],
        config["rope_theta"],
        False,
        config["rope_scaling"],
        config["max_position_embeddings"],
    )


def _each_expert_apart(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Experts as Hugging Face's checkpoints have them: one tensor each."""
    apart: dict[str, mx.array] = {}
    for name, array in weights.items():
        if ".switch_mlp." in name:
            for expert in range(array.shape[0]):
                apart[name.replace(".switch_mlp.", f".experts.{expert}.")] = array[expert]
        else:
            apart[name] = array
    return apart


def _latent_maps_together(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """GLM's heads as Hugging Face's checkpoints have them: behind each other in one matrix, key above value."""
    made: dict[str, mx.array] = {}
    for name, array in weights.items():
        if name.endswith("embed_q.weight"):
            values = weights[name.replace("embed_q", "unembed_out")]
            both = mx.concatenate([array.swapaxes(1, 2), values], axis=1)
            made[name.replace("embed_q", "kv_b_proj")] = both.flatten(0, 1)
        elif not name.endswith("unembed_out.weight"):
            made[name] = array
    return made


def _published(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Qwen3-Next's and Qwen3.5's convolutions and norms as published."""
    made = _each_expert_apart(weights)
    for name, array in made.items():
        if name.endswith("conv1d.weight"):
            made[name] = array.moveaxis(1, 2)
        elif name.endswith("norm.weight") and "linear_attn" not in name:
            made[name] = array - 1
    return made


def _gate_and_up_together(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """gpt-oss's experts as Hugging Face's checkpoints have them; mlx-lm's own reader takes the packed ones only."""
    made: dict[str, mx.array] = {}
    for name, array in weights.items():
        path, dot, last = name.rpartition(".experts.")
        up = weights[name.replace("gate_proj", "up_proj")]
        if not dot:
            made[name] = array
        elif last == "gate_proj.weight":
            both = mx.stack([array, up], axis=2).flatten(1, 2)
            made[f"{path}.experts.gate_up_proj"] = both.swapaxes(1, 2)
        elif last == "gate_proj.bias":
            made[f"{path}.experts.gate_up_proj_bias"] = mx.stack([array, up], axis=2).flatten(1, 2)
        elif last == "down_proj.weight":
            made[f"{path}.experts.down_proj"] = array.swapaxes(1, 2)
        elif last == "down_proj.bias":
            made[f"{path}.experts.down_proj_bias"] = array
    return made


def _halves_together(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Gemma 4's experts as Hugging Face's checkpoints have them: the rows of gate, then those of up."""
    made: dict[str, mx.array] = {}
    for name, array in weights.items():
        path, dot, last = name.rpartition(".switch_glu.")
        if not dot:
            made[name] = array
        elif last == "gate_proj.weight":
            up = weights[f"{path}.switch_glu.up_proj.weight"]
            made[f"{path}.gate_up_proj"] = mx.concatenate([array, up], axis=1)
        elif last == "down_proj.weight":
            made[f"{path}.down_proj"] = array
    return made


def _add_biases(attention: Any) -> None:
    """mlx-lm's Qwen3, Qwen3-MoE and Gemmas have no attention_bias."""
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        if name in attention:
            attention[name]["bias"] = mx.zeros(attention[name].weight.shape[0])


def _foreign_biases(case: Case) -> set[str]:
    """A Qwen2 played by a Llama has a bias after attention: it is 0 there and kept from us."""
    if case.architecture != "Qwen2ForCausalLM":
        return set()
    return {f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(len(case.windows))}


NEAR_ONE = ("norm.weight", "norm_1.weight", "norm_2.weight", "layer_scalar", "scale")


def _random_weights(model: Any, seed: str) -> dict[str, mx.array]:
    """Large enough for attention to choose and for every bias and norm to count, with logits of about 1 to 10."""
    keys = iter(mx.random.split(mx.random.key(random.Random(seed).getrandbits(32)), 1_000))
    weights: dict[str, mx.array] = {}
    parameters: Any = tree_flatten(model.parameters())
    for name, parameter in parameters:
        noise = mx.random.normal(parameter.shape, key=next(keys))
        weights[name] = 1 + 0.2 * noise if name.endswith(NEAR_ONE) else 0.2 * noise
        if name.endswith("A_log"):
            weights[name] = weights[name] - 3  # a memory of some thirty positions
    mx.eval(weights)
    return weights
