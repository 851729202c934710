"""ModelFiles -> LoadedModel: check, read, rename, match, convert, evaluate.

MLX reads lazily: `mx.load` only opens a file, the bytes come at evaluation. So a file is checked before MLX
sees it, everything is evaluated before the first request, and the files are looked at once more afterwards.

Knows nothing about requests; runs on the worker thread.
"""

from __future__ import annotations

import logging
import time

import mlx.core as mx

from runner import models
from runner.cache.slots import Slots
from runner.errors import BadModelFiles, ModelTooLarge, explain
from runner.grammar.compiler import Grammars
from runner.loading.conversion import (
    converted,
    fuse_layers,
    join_layers,
    lay_head_weight,
    lay_weights,
    parameter_shapes,
)
from runner.loading.evaluation import Progress, evaluate
from runner.loading.kv_types import memories
from runner.loading.loaded_model import LoadedModel
from runner.machine import device, memory
from runner.models.base import Model
from runner.quantization.declared import declarations, refuse_foreign
from runner.quantization.matrix import common_dtype, in_mlx_layout
from runner.sharding.division import divide
from runner.sharding.group import Group
from runner.store.files import ModelFiles, WeightFile
from runner.store.tensors import read_headers
from runner.text.tokenizer import Tokenizer
from runner.types import AS_COMPUTED, KVType

log = logging.getLogger(__name__)

NAMED_AT_MOST = 5  # tensors in an error message


def load(
    files: ModelFiles,
    progress: Progress,
    *,
    packed: bool = False,
    slots: int = 1,
    context_length: int | None = None,
    kv_type: KVType = AS_COMPUTED,
    group: Group | None = None,
) -> LoadedModel:
    """Bring a model into memory. packed: leave quantized weights as they are on a CPU, too. slots: how many
    requests can be answered at once. context_length: tokens that each of them may have; None: as the model can.
    kv_type: how slots keep keys and values, where the model's heads allow it. group: the processes that have the
    model together; ours then keeps its part of it.

    Raises BadModelFiles for broken, missing or contradicting files and UnsupportedModel for a model that is
    whole but not one of ours; both name what they mean.
    """
    started = time.perf_counter()
    progress(0.0)
    headers = [header for _, header in read_headers(files.weights)]
    refuse_foreign(files.config, headers)
    model = models.build(files.config)
    tokenizer = Tokenizer(files.tokenizer_json, files.tokenizer_config, files.generation_config, files.config)
    tokenizer.require_rows(model.vocab_size)
    before = [_fingerprint(file) for file in files.weights]
    parts = 1 if group is None else group.size
    _check_size(sum(size for _, _, size, _ in before) // parts)
    weights = in_mlx_layout(_read_all(files.weights))
    common = common_dtype(weights)
    declared = declarations(files.config, headers)
    weights = converted(model, model.rename(weights), declared, common, keep_packed=packed, parts=parts)
    _assign(model, weights)
    if group is not None:
        divide(model, weights, group, models.architecture(files.config))
    weights = lay_head_weight(model)
    _evaluate(weights, progress, parts)
    tensors, size = len(weights), sum(array.nbytes for array in weights.values())
    weights.clear()  # nobody else may hold what is joined
    join_layers(model)
    fuse_layers(model)
    lay_weights(model)
    # Layers begin with random numbers, whose keys are a chain that each load lengthens.
    mx.eval(mx.random.state)
    memory.release_buffers()
    if before != [_fingerprint(file) for file in files.weights]:
        raise BadModelFiles("weight files changed while they were read; load the model again")
    memory.wire_active()
    kv_type, make_memory = memories(model, kv_type)
    loaded = LoadedModel(
        name=files.name,
        architecture=files.config["architectures"][0],
        model=model,
        tokenizer=tokenizer,
        grammars=Grammars(tokenizer, model.vocab_size),
        slots=Slots(make_memory, slots),
        context_length=min(model.context_length, context_length or model.context_length),
        prefill_chunk=device.prefill_chunk(),
        kv_type=kv_type,
    )
    log.info(
        "Model loaded",
        extra={
            "model": loaded.name,
            "architecture": loaded.architecture,
            "tensors": tensors,
            "bytes": size,
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
        said = explain(error).replace(str(file.path), file.name)  # where it lies is nobody's business
        raise BadModelFiles(f"{file.name}: not a valid safetensors file: {said}") from None
    assert isinstance(arrays, dict)
    return arrays


def _assign(model: Model, weights: dict[str, mx.array]) -> None:
    expected = parameter_shapes(model)
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


def _refuse(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        raise BadModelFiles(f"{what}: {', '.join(names[:NAMED_AT_MOST])}{more}")


def _evaluate(weights: dict[str, mx.array], progress: Progress, parts: int) -> None:
    try:
        evaluate(weights, progress, parts)
    except RuntimeError as error:
        raise BadModelFiles(f"weights cannot be read: {error}") from None


def _fingerprint(file: WeightFile) -> tuple[int, int, int, int]:
    try:
        status = file.path.stat()
    except OSError as error:
        raise BadModelFiles(f"{file.name}: {explain(error)}") from None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_size(size: int) -> None:
    if size > memory.budget():
        raise ModelTooLarge(size, memory.budget())
