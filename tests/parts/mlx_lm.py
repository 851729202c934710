"""What tests use of mlx-lm at once; its imports warn about their own dependencies."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from runner.config.fields import Config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlx_lm.generate import generate_step as generate_step
    from mlx_lm.models.base import create_causal_mask as create_causal_mask
    from mlx_lm.models.cache import KVCache as KVCache
    from mlx_lm.models.cache import RotatingKVCache as RotatingKVCache
    from mlx_lm.models.rope_utils import initialize_rope as initialize_rope
    from mlx_lm.utils import load_model as load_model


def architecture(kind: str) -> Any:
    """mlx-lm's module of a `model_type`."""
    return importlib.import_module(f"mlx_lm.models.{kind}")


def build(kind: str, config: Config) -> Any:
    """mlx-lm's model of a config, with no weights yet."""
    module = architecture(kind)
    return module.Model(module.ModelArgs.from_dict({**config, "model_type": kind}))


def loaded(folder: Path) -> Any:
    """mlx-lm's model of a directory, as mlx-lm loads it."""
    return load_model(folder)[0]


def logits(folder: Path, tokens: Sequence[int]) -> mx.array:
    """mlx-lm's logits [T,V], in float32 as ours are on a CPU."""
    model = loaded(folder)
    model.set_dtype(mx.float32)
    whole: mx.array = model(mx.array([tokens]))
    return whole[0]
