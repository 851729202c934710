"""ModelFiles -> LoadedModel: check, read, rename, match, convert, evaluate.

MLX reads lazily: `mx.load` only opens a file, the bytes come at evaluation. So a file is checked before MLX
sees it, everything is evaluated before the first request, and the files are looked at once more afterwards.

Knows nothing about requests; runs on the worker thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner import device, models
from runner.cache.prefix import PrefixCache
from runner.engine import LoadedModel
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models.base import Model
from runner.store.files import ModelFiles, WeightFile
from runner.store.safetensors_header import read_tensors
from runner.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Progress = Callable[[float], None]
"""Called with the share of the weights that is in memory, 0.0 ... 1.0."""

EVALUATE_BYTES = (
    256 * 1024 * 1024
)  # per step of progress; bounds what is held twice while dtypes are converted
NAMED_AT_MOST = 5  # tensors in an error message
FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def load(files: ModelFiles, progress: Progress) -> LoadedModel:
    """Bring a model into memory.

    Raises BadModelFiles for broken, missing or contradicting files and UnsupportedModel for a model that is
    whole but not one of ours; both name what they mean.
    """
    started = time.perf_counter()
    progress(0.0)
    if "quantization" in files.config or "quantization_config" in files.config:
        raise UnsupportedModel("quantized weights are not supported yet: give a float checkpoint")
    model = models.build(files.config)
    tokenizer = Tokenizer(files.tokenizer_json, files.tokenizer_config, files.generation_config, files.config)
    before = [_fingerprint(file.path) for file in files.weights]
    weights = model.rename(_read_all(files.weights))
    weights = {name: _converted(name, array) for name, array in weights.items()}
    _assign(model, weights)
    _evaluate(weights, progress)
    if before != [_fingerprint(file.path) for file in files.weights]:
        raise BadModelFiles("weight files changed while they were read; load the model again")
    _check_vocabulary(tokenizer, model.vocab_size)
    device.wire_weights()
    loaded = LoadedModel(
        name=files.name,
        architecture=files.config["architectures"][0],
        model=model,
        tokenizer=tokenizer,
        prefix=PrefixCache(model.make_caches),
        context_length=model.context_length,
        prefill_chunk=device.prefill_chunk(),
    )
    log.info(
        "Model loaded",
        extra={
            "model": loaded.name,
            "architecture": loaded.architecture,
            "tensors": len(weights),
            "bytes": sum(array.nbytes for array in weights.values()),
            "context": loaded.context_length,
            "took": f"{time.perf_counter() - started:.3f}s",
        },
    )
    return loaded


def _read_all(files: tuple[WeightFile, ...]) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for file in files:
        weights.update(_read(file))
    return weights


def _read(file: WeightFile) -> dict[str, mx.array]:
    """One file's tensors, unevaluated."""
    read_tensors(file.path, file.name)
    try:
        arrays = mx.load(str(file.path), format="safetensors")
    except (RuntimeError, ValueError, OSError) as error:
        raise BadModelFiles(f"{file.name}: not a valid safetensors file: {error}") from None
    assert isinstance(arrays, dict)
    return arrays


def _converted(name: str, array: mx.array) -> mx.array:
    if array.dtype not in FLOATS:
        raise BadModelFiles(
            f"{name}: dtype {str(array.dtype).removeprefix('mlx.core.')}, expected a float type"
        )
    return array.astype(device.weight_dtype(array.dtype))


def _assign(model: Model, weights: dict[str, mx.array]) -> None:
    expected = {name: parameter.shape for name, parameter in _parameters(model)}
    _refuse("missing tensors", [name for name in expected if name not in weights])
    _refuse("unexpected tensors", [name for name in weights if name not in expected])
    _refuse(
        "wrong shapes",
        [
            f"{name} {tuple(weights[name].shape)}, expected {tuple(shape)}"
            for name, shape in expected.items()
            if weights[name].shape != shape
        ],
    )
    model.load_weights(list(weights.items()))


def _parameters(model: Model) -> Iterator[tuple[str, mx.array]]:
    flat: Any = tree_flatten(model.parameters())
    yield from flat


def _refuse(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        raise BadModelFiles(f"{what}: {', '.join(names[:NAMED_AT_MOST])}{more}")


def _evaluate(weights: dict[str, mx.array], progress: Progress) -> None:
    total = sum(array.nbytes for array in weights.values())
    done, group, size = 0, [], 0
    for array in weights.values():
        group.append(array)
        size += array.nbytes
        if size >= EVALUATE_BYTES:
            done += _evaluate_group(group, size)
            progress(done / total)
            group, size = [], 0
    _evaluate_group(group, size)
    progress(1.0)


def _evaluate_group(group: list[mx.array], size: int) -> int:
    try:
        mx.eval(group)
    except RuntimeError as error:
        raise BadModelFiles(f"weights cannot be read: {error}") from None
    device.release_buffers()
    return size


def _fingerprint(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """An id past the embedding's rows would read another array's memory, or crash."""
    if tokenizer.size > rows:
        raise BadModelFiles(f"tokenizer.json has {tokenizer.size} tokens, but the embedding only {rows} rows")
