"""ModelFiles -> LoadedModel: check, read, rename, match, convert, evaluate.

MLX reads lazily: `mx.load` only opens a file, the bytes come at evaluation. So a file is checked before MLX
sees it, everything is evaluated before the first request, and the files are looked at once more afterwards.

Knows nothing about requests; runs on the worker thread.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner import models
from runner.cache.slots import Slots
from runner.errors import BadModelFiles
from runner.layers import nn
from runner.layers.packed import replace
from runner.loading.evaluation import Progress, evaluate
from runner.loading.loaded_model import LoadedModel
from runner.machine import device, memory
from runner.models.base import Model
from runner.quantization.declared import Declared, declarations, refuse_foreign
from runner.quantization.matrix import FLOATS, Packed, collect, common_dtype, dense_bytes, in_mlx_layout
from runner.quantization.names import ROLES
from runner.store.files import ModelFiles, WeightFile
from runner.store.tensors import read_headers
from runner.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

NAMED_AT_MOST = 5  # tensors in an error message
# Of the memory, for weights dequantized on a CPU; the rest is for caches and everybody else.
DENSE_SHARE = 0.6


def load(files: ModelFiles, progress: Progress, *, packed: bool = False) -> LoadedModel:
    """Bring a model into memory. packed: leave quantized weights as they are on a CPU, too.

    Raises BadModelFiles for broken, missing or contradicting files and UnsupportedModel for a model that is
    whole but not one of ours; both name what they mean.
    """
    started = time.perf_counter()
    progress(0.0)
    headers = [header for _, header in read_headers(files.weights)]
    refuse_foreign(files.config, headers)
    model = models.build(files.config)
    tokenizer = Tokenizer(files.tokenizer_json, files.tokenizer_config, files.generation_config, files.config)
    before = [_fingerprint(file.path) for file in files.weights]
    weights = in_mlx_layout(_read_all(files.weights))
    common = common_dtype(weights)
    declared = declarations(files.config, headers)
    weights = _in_place(model, model.rename(weights), declared, common, packed)
    _assign(model, weights)
    _evaluate(weights, progress)
    if before != [_fingerprint(file.path) for file in files.weights]:
        raise BadModelFiles("weight files changed while they were read; load the model again")
    _check_vocabulary(tokenizer, model.vocab_size)
    memory.wire_weights()
    loaded = LoadedModel(
        name=files.name,
        architecture=files.config["architectures"][0],
        model=model,
        tokenizer=tokenizer,
        slots=Slots(model.make_memory),
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
    try:
        arrays = mx.load(str(file.path), format="safetensors")
    except (RuntimeError, ValueError, OSError) as error:
        raise BadModelFiles(f"{file.name}: not a valid safetensors file: {error}") from None
    assert isinstance(arrays, dict)
    return arrays


def _in_place(
    model: Model,
    weights: dict[str, mx.array],
    declared: dict[str, Declared],
    common: mx.Dtype,
    keep_packed: bool,
) -> dict[str, mx.array]:
    """Every tensor in the form that it is computed with; quantized ones either become floats or stay packed,
    and then the model's layers become packed ones. common: see `quantization.common_dtype`."""
    shapes = {name: parameter.shape for name, parameter in _parameters(model)}
    parts = collect(weights, shapes, declared)
    members = {f"{path}.{part}" for path in parts for part in ROLES}
    ready = {name: _converted(name, array) for name, array in weights.items() if name not in members}
    if not parts:
        return ready
    dtypes = {path: device.weight_dtype(part.dtype(common)) for path, part in parts.items()}
    why = _why_packed(dense_bytes(shapes.values(), mx.float32.size), keep_packed)
    stay: list[str] = []
    if why:
        assert isinstance(model, nn.Module)
        stay = replace(model, parts, dtypes)
    for path, part in parts.items():
        if path in stay:
            ready |= {f"{path}.{name}": array for name, array in part.tensors(dtypes[path]).items()}
        else:
            ready[f"{path}.weight"] = part.dequantized(dtypes[path])
    _log_quantized(parts, len(stay), why)
    return ready


def _why_packed(dense: int, asked: bool) -> str:
    """The reason for keeping weights packed, empty if they become floats: BLAS beats the kernels on a CPU."""
    if asked:
        return "asked for"
    if device.kind() != "cpu":
        return f"{device.kind()} computes with them"
    limit = int(DENSE_SHARE * memory.total())
    return f"{dense} bytes as floats, limit {limit}" if dense > limit else ""


def _log_quantized(parts: dict[str, Packed], stay: int, why: str) -> None:
    kinds = Counter(str(part.settings) for part in parts.values())
    log.info(
        "Quantized weights",
        extra={
            "stored": ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            "packed": stay,
            "dequantized": len(parts) - stay,
            "reason": why or "faster as float32 on a CPU",
        },
    )


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
    try:
        evaluate(weights, progress)
    except RuntimeError as error:
        raise BadModelFiles(f"weights cannot be read: {error}") from None


def _fingerprint(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """An id past the embedding's rows would read another array's memory, or crash."""
    if tokenizer.size > rows:
        raise BadModelFiles(f"tokenizer.json has {tokenizer.size} tokens, but the embedding only {rows} rows")
