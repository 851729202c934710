"""The architectures that mlx-lm has and we have not, behind our contract of a model: the extra `mlx-runner[zoo]`.

One of theirs is a module `mlx_lm.models.TYPE`, and config.json's `model_type` says which; code that a model
brings along (`model_file`, `auto_map`) is never looked at. Only that module and what it imports are loaded:
`mlx_lm` itself would import transformers, which takes a second, and lower this process's limit of open files for
good.

A model of theirs goes from tokens straight to logits, so logits take the place of hidden states here, and `logits`
has nothing to do. Prefill does not pay for that: MLX computes what is asked for, prefill asks for the caches'
arrays, and none of them needs the head (2,048 positions with 152,000 logits each: 82 MB, against 1.3 GB with the
logits). Decoding asks for one position.

What they do with a config is as right as mlx-lm is: it overlooks what it does not know.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.cache.base import LayerMemory
from runner.cache.borrowed import BorrowedCaches
from runner.cache.memory import Memory
from runner.cache.span import Span
from runner.config.fields import MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, Config, Fields, shown
from runner.errors import BadModelFiles, UnsupportedModel
from runner.layers import nn

log = logging.getLogger(__name__)

EXTRA = "pip install 'mlx-runner[zoo]'"
# Where model_type is not the module's name; mlx-lm has the same tables in a module that imports transformers.
MODULES = {
    "deepseek_v41_text": "deepseek_v41",
    "falcon_mamba": "mamba",
    "gemma4_unified": "gemma4",
    "iquestcoder": "llama",
    "joyai_llm_flash": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "llava": "mistral3",
    "minimax_m2": "minimax",
    "mistral": "llama",
    "phi-msft": "phixtral",
    "qwen2_5_vl": "qwen2_vl",
    "xverse": "llama",
}
MODULES_OF_ARCHITECTURES = {("bailing_hybrid", "BailingMoeV3ForCausalLM"): "bailing_moe_v3"}

LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_context_length",
    "n_ctx",
)
UNSTATED_POSITIONS = 32_768  # recurrent models have no limit of their own, but generation needs some end
# How transformers writes what JSON has no number for: {"__float__": "Infinity"}.
FLOAT_TAG = "__float__"
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# What wrong configs and tensors end in somewhere inside mlx-lm; one of its modules even leaves the program.
TROUBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    SystemExit,
    TypeError,
    ValueError,
)
MAX_SAID = 300


def is_installed() -> bool:
    return importlib.util.find_spec("mlx_lm") is not None


def versioned() -> str:
    return f"mlx-lm {version('mlx-lm')}"


def find(config: Config, architecture: str) -> str | None:
    """The name of mlx-lm's module for a config, None if it has none. mlx-lm must be installed."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", kind):
        return None
    kind = MODULES_OF_ARCHITECTURES.get((kind, architecture)) or MODULES.get(kind, kind)
    _without_init()
    return kind if importlib.util.find_spec(f"mlx_lm.models.{kind}") else None


def _without_init() -> None:
    """Make `mlx_lm` a package whose modules can be imported while its own code does not run."""
    if "mlx_lm" not in sys.modules:
        spec = importlib.util.find_spec("mlx_lm")
        assert spec is not None
        sys.modules["mlx_lm"] = importlib.util.module_from_spec(spec)


class Model(nn.Module):
    """One of mlx-lm's models. It is no part of this module's tree: parameters and layers are theirs, by their
    own names, which are the checkpoint's.
    """

    def __init__(self, config: Config, kind: str) -> None:
        """kind: as `find` has it."""
        super().__init__()
        config = _plain_floats(config)
        text = config.get("text_config")
        sections = [Fields(text, "text_config")] if isinstance(text, dict) else []
        sections.append(Fields(config))
        for fields, name in ((fields, name) for fields in sections for name in LAYERS):
            fields.optional_integer(name, high=MAX_LAYERS)
        named = next((fields for fields in sections if "vocab_size" in fields), sections[-1])
        self.vocab_size = named.integer("vocab_size", high=MAX_VOCABULARY)
        self.context_length = _context_length(sections)
        self._kind = kind
        with _trouble(f"config.json: mlx-lm's {kind} cannot be built from it"):
            module = importlib.import_module(f"mlx_lm.models.{kind}")
            known = inspect.signature(module.ModelArgs).parameters
            self._stay_inside_windows(config, known)
            args = module.ModelArgs.from_dict(_with_older_rope(config, known, kind))
            self._theirs = module.Model(args)
        self._theirs.eval()  # no dropout
        _refuse_packed(self._theirs, kind)

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        """[B,L] -> raw logits [B,L,V]."""
        storage = memory.borrowed
        assert storage is not None
        storage.expect(span.length)
        logits: mx.array = self._theirs(tokens, cache=storage.native)
        return logits

    def logits(self, hidden: mx.array) -> mx.array:
        return hidden

    def make_memory(self) -> Memory:
        kinds = importlib.import_module("mlx_lm.models.cache")
        return Memory(borrowed=BorrowedCaches(lambda: kinds.make_prompt_cache(self._theirs), kinds))

    def rename(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        with _trouble(f"mlx-lm's {self._kind} cannot take these tensors"):
            sanitized: dict[str, mx.array] = (
                self._theirs.sanitize(weights) if hasattr(self._theirs, "sanitize") else weights
            )
        return sanitized

    def _stay_inside_windows(self, config: Config, known: Mapping[str, object]) -> None:
        """Many of theirs overlook `sliding_window`; as far as it reaches, that makes no difference."""
        unused = not config.get("sliding_window") or config.get("use_sliding_window") is False
        if unused or "sliding_window" in known:
            return
        window = Fields(config).integer("sliding_window", high=MAX_POSITIONS)
        if window < self.context_length:
            log.warning(
                "Context cut to sliding_window, which mlx-lm overlooks",
                extra={"model": self._kind, "context": self.context_length, "window": window},
            )
            self.context_length = window

    def parameters(self) -> Any:
        return self._theirs.parameters()

    def named_modules(self) -> Any:
        return self._theirs.named_modules()

    def update_modules(self, modules: Any, strict: bool = True) -> Any:
        return self._theirs.update_modules(modules, strict)

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> Any:
        self._theirs.load_weights(file_or_weights, strict)
        with _trouble(f"mlx-lm's {self._kind} cannot run"):
            memory = self.make_memory()
            width = self(mx.array([[0]]), memory.span(1), memory).shape[-1]  # a graph: nothing is computed
        if width != self.vocab_size:
            raise UnsupportedModel(
                f"config.json: vocab_size is {self.vocab_size}, but mlx-lm's {self._kind} has logits for {width}"
            )
        return self


@contextmanager
def _trouble(what: str) -> Iterator[None]:
    """Their exceptions become one line of ours; what they print, which are warnings, is logged."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    except TROUBLES as error:
        text = " ".join(f"{error} {said.getvalue()}".split())[:MAX_SAID]
        # The name, because the text of a KeyError is no more than the key.
        raise BadModelFiles(f"{what}: {text} ({type(error).__name__})") from None
    if said.getvalue():
        log.warning("mlx-lm says", extra={"said": " ".join(said.getvalue().split())[:MAX_SAID]})


def _plain_floats(value: Any) -> Any:
    """transformers writes infinities and not-a-number as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_plain_floats(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {FLOAT_TAG} and value[FLOAT_TAG] in ("Infinity", "-Infinity", "NaN"):
        return float(value[FLOAT_TAG])
    return {name: _plain_floats(item) for name, item in value.items()}


def _context_length(sections: Sequence[Fields]) -> int:
    for fields, name in ((fields, name) for fields in sections for name in POSITIONS):
        if length := fields.optional_integer(name, high=MAX_POSITIONS):
            return length
    return UNSTATED_POSITIONS


def _with_older_rope(config: Config, known: Mapping[str, object], kind: str) -> Config:
    """Newer configs have `rope_parameters`, and many of mlx-lm's models only know what it replaced: they would
    take a default theta without a word.
    """
    rope = Fields(config).mapping("rope_parameters")
    if rope is None or "rope_parameters" in known or "rope_theta" not in known:
        return config
    scaling = rope.get("rope_type", rope.get("type", "default"))
    nested = any(isinstance(value, dict) for value in rope.values())
    if nested or (scaling != "default" and "rope_scaling" not in known):
        raise UnsupportedModel(
            f"config.json: rope_parameters {shown(rope)} are more than mlx-lm's {kind} can do"
        )
    older: Config = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if scaling != "default":
        older["rope_scaling"] = {**rope, "type": scaling, "rope_type": scaling}
    return {**config, **{name: value for name, value in older.items() if config.get(name) is None}}


def _refuse_packed(theirs: Any, kind: str) -> None:
    """A few of theirs are made of packed weights from the start, in layouts that the loader does not know."""
    flat: Any = tree_flatten(theirs.parameters())
    for name, parameter in flat:
        if parameter.dtype not in FLOATS:
            raise UnsupportedModel(f"mlx-lm's {kind} has packed weights of its own kind ({name})")
