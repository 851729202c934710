"""What a model is, from its config and the headers of its weight files; no tensor is read.

Knows nothing about how it is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner import models
from runner.errors import BadModelFiles, LoadError
from runner.quantization.collect import Part, classify, in_mlx_types
from runner.quantization.declared import Written, logical_count, refuse_foreign
from runner.quantization.settings import kind_text
from runner.store.files import ModelFiles, read_text
from runner.store.safetensors_header import Header, Tensor
from runner.store.tensors import by_name, read_headers

JINJA_SUFFIX = ".jinja"
MAX_LINE = 80  # characters of a licence
CONTEXT = ("max_position_embeddings", "n_positions", "seq_length")


@dataclass(frozen=True, slots=True)
class Description:
    """Facts about a model; None where its files do not say."""

    name: str
    architecture: str
    known: bool
    """Whether the architecture is one that can be run here, by us or by mlx-lm."""
    trouble: str | None
    """Why this runner cannot load it all the same."""
    parameters: int
    matrices: Counter[str]
    """Of the quantized ones, how many are int4 (64) and so on."""
    floats: Counter[str]
    """dtype -> how many of the other tensors are it."""
    context_length: int | None
    layers: int | None
    hidden_size: int | None
    heads: tuple[int, int] | None
    """Of queries, of keys and values."""
    experts: tuple[int, int] | None
    """Used for a token, in a layer."""
    vocabulary: int | None
    licence: str | None
    templates: tuple[str, ...]
    """The languages of its chat templates."""
    weight_bytes: int


def describe(files: ModelFiles) -> Description:
    """Raises BadModelFiles for weight files that are none."""
    config = files.config
    read = read_headers(files.weights)
    headers = [header for _, header in read]
    found = by_name(read)
    parts = classify({name: located.tensor.dtype for name, located in found.items()})
    tensors = [(part, in_mlx_types(found[name].tensor, part)) for name, part in parts.items()]
    parameters, matrices, floats = _counted(tensors, Written(config, headers))
    context, trouble = _context_or_trouble(config, headers)
    heads = _integer(config, "num_attention_heads")
    experts = _integer(config, "num_experts", "num_local_experts", "n_routed_experts")
    return Description(
        name=files.name,
        architecture=(architecture := _architecture(config)),
        known=trouble is None or architecture in models.ARCHITECTURES,
        trouble=trouble,
        parameters=parameters,
        matrices=matrices,
        floats=floats,
        context_length=context or _integer(config, *CONTEXT),
        layers=_integer(config, "num_hidden_layers"),
        hidden_size=_integer(config, "hidden_size"),
        heads=(heads, _integer(config, "num_key_value_heads") or heads) if heads else None,
        experts=(_integer(config, "num_experts_per_tok", "top_k_experts") or 1, experts) if experts else None,
        vocabulary=_integer(config, "vocab_size"),
        licence=_licence(files),
        templates=tuple(_templates(files)),
        weight_bytes=sum(located.tensor.size for located in found.values()),
    )


def _counted(
    tensors: Sequence[tuple[Part, Tensor]], written: Written
) -> tuple[int, Counter[str], Counter[str]]:
    """What is wrong with a matrix is for whoever loads it to say."""
    scales = {part.path: tensor for part, tensor in tensors if part.role == "scales"}
    parameters = 0
    matrices: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for part, tensor in tensors:
        if part.role == "weight" and (part.layout == "blocks" or tensor.dtype == "U32"):
            settings = written.settings(part, tensor, scales.get(part.path))
            matrices[kind_text(settings)] += 1
            parameters += logical_count(tensor, settings)
        elif part.role in (None, "weight"):
            floats[tensor.dtype] += 1
            parameters += tensor.count
    return parameters, matrices, floats


def _architecture(config: dict[str, Any]) -> str:
    try:
        return models.architecture(config)
    except BadModelFiles:
        return str(config.get("model_type", "unknown"))


def _context_or_trouble(config: dict[str, Any], headers: list[Header]) -> tuple[int | None, str | None]:
    """From building the model, which makes no array that takes memory and refuses what cannot be honoured."""
    try:
        refuse_foreign(config, headers)
        return models.build(config).context_length, None
    except LoadError as error:
        return None, str(error)


def _templates(files: ModelFiles) -> Iterator[str]:
    own = files.template
    if own is not None and own.suffix != JINJA_SUFFIX:
        yield "Go"
    if files.tokenizer_config.get("chat_template") or (own is not None and own.suffix == JINJA_SUFFIX):
        yield "Jinja"


def _integer(config: dict[str, Any], *names: str) -> int | None:
    """The first that is there, in the text part of a multimodal config before the whole."""
    text = config.get("text_config")
    for part in (text, config):
        for name in names:
            if isinstance(part, dict) and type(part.get(name)) is int:
                value: int = part[name]
                return value
    return None


def _licence(files: ModelFiles) -> str | None:
    """The first line with words of its text, or else what config.json says."""
    if files.licence is not None:
        try:
            lines = read_text(files.licence, "its text").splitlines()
        except BadModelFiles as error:
            return str(error)
        return next((line.strip()[:MAX_LINE] for line in lines if line.strip()), None)
    said = files.config.get("license")
    return said[:MAX_LINE] if isinstance(said, str) else None
