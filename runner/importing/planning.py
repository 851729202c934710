"""From the headers of a model directory to what an import writes.

As Ollama's importer has it: every tensor is a blob of its own; so is every quantized matrix with its scales;
experts that come one by one are stacked, [N,out,in], and the projections of a layer share a blob if they are of one
kind.

Knows nothing about arrays: how a matrix is quantized is the business of whoever carries out the plan.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.errors import BadModelFiles, UnsupportedModel
from runner.importing.plan import Blob, Item, Plan, Source, Turned
from runner.quantization.collect import (
    NVFP4_LAYOUTS,
    Part,
    classify,
    in_mlx_types,
    is_quantized,
    require_whole,
    stored_names,
)
from runner.quantization.declared import Written, logical_count, refuse_foreign
from runner.quantization.names import IN_THE_STORE, ROLES, SCALES, WEIGHT
from runner.quantization.policy import kind_of
from runner.quantization.settings import KINDS, Quantization, quant_type
from runner.store.files import WeightFile
from runner.store.safetensors_header import Header
from runner.store.tensors import Located, by_name

FLOATS = frozenset({"F32", "F16", "BF16"})
ONE_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(0|[1-9]\d{0,5})\.(.+)\.weight")
BARE_EXPERTS = re.compile(r"(.*\.experts)\.(\w+)")
# What `experts.gate_up_proj` and `experts.down_proj`, of all experts and without `.weight`, are taken apart into.
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
# Who has these as [N,in,out], gate and up column by column in turn; others: [N,out,in], gate first.
TURNED = (["GptOssForCausalLM"],)

MAX_PIECE = 256 * 1024 * 1024  # bytes

Found = dict[str, Located]


def make_plan(config: dict[str, Any], files: Iterable[tuple[WeightFile, Header]], kind: str | None) -> Plan:
    """kind: a key of KINDS, to quantize a float model; None takes everything as it is.

    Raises BadModelFiles or UnsupportedModel, naming the tensor, for what cannot be imported.
    """
    listed = list(files)
    headers = [header for _, header in listed]
    found = by_name(listed)
    parts = classify({name: located.tensor.dtype for name, located in found.items()})
    if not any(part.layout in NVFP4_LAYOUTS for part in parts.values()):
        refuse_foreign(config, headers)
    if not is_quantized(parts):
        return _plan_floats(found, config, kind)
    if kind:
        raise UnsupportedModel("the model is quantized already; --quantize takes float models")
    return _plan_quantized(found, parts, Written(config, headers))


# A float model.


def _plan_floats(found: Found, config: dict[str, Any], kind: str | None) -> Plan:
    blobs: list[Blob] = []
    groups: dict[str, dict[str, dict[int, Located]]] = {}
    tied = not any(name.endswith("lm_head.weight") for name in found)
    for name, located in found.items():
        _require_float(name, located.tensor.dtype)
        expert, bare = ONE_EXPERT.fullmatch(name), BARE_EXPERTS.fullmatch(name)
        if expert and len(located.tensor.shape) == 2:
            groups.setdefault(expert[1], {}).setdefault(expert[3], {})[int(expert[2])] = located
        elif kind and bare and len(located.tensor.shape) == 3:
            blobs += [_blob(item) for item in _taken_apart(located, bare[1], bare[2], config, kind)]
        else:
            blobs.append(
                _blob(_item(name, located.tensor.dtype, located.tensor.shape, [located], kind, tied=tied))
            )
    for group, projections in groups.items():
        blobs += _expert_blobs(group, projections, kind)
    kinds = Counter(item.kind or item.dtype for blob in blobs for item in blob.items)
    if kind and not any(one in KINDS for one in kinds):
        raise UnsupportedModel(
            f"nothing can be quantized to {kind}: no matrix has rows of a multiple of {KINDS[kind].group_size}"
        )
    parameters = sum(located.tensor.count for located in found.values())
    return Plan(tuple(blobs), kind or _common_dtype(found), kind is not None, parameters, kinds)


def _require_float(name: str, dtype: str) -> None:
    if dtype not in FLOATS:
        raise UnsupportedModel(
            f"tensor {name} is {dtype}; floats and MLX's quantized matrices can be imported"
        )


def _item(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    parts: list[Located],
    kind: str | None,
    *,
    tied: bool = False,
) -> Item:
    chosen = kind_of(name, shape, kind, tied=tied) if kind else None
    sources = [Source.of(located) for located in parts]
    if chosen and len(sources) == 1:
        sources = _split(sources[0], shape[0] if len(shape) == 3 else _pieces(shape[0], sources[0].size))
    return Item(name, dtype, shape, tuple(sources), chosen)


def _pieces(rows: int, size: int) -> int:
    """Into how many equal pieces a matrix is cut, so that none is larger than it need be in memory."""
    wanted = -(-size // MAX_PIECE)
    return next((count for count in range(wanted, 16 * wanted) if rows % count == 0), 1)


def _split(stack: Source, count: int) -> list[Source]:
    size = stack.size // count
    return [Source(stack.file, stack.start + size * i, size) for i in range(count)]


def _taken_apart(
    located: Located, group: str, projection: str, config: dict[str, Any], kind: str
) -> Iterator[Item]:
    """One of PARTS as items [N,out,in]; the tensor as it is if that cannot be quantized."""
    tensor, parts = located.tensor, PARTS.get(projection, ())
    turned = config.get("architectures") in TURNED
    count, rows, width = (tensor.shape[0], tensor.shape[2], tensor.shape[1]) if turned else tensor.shape
    hidden, other = (width, rows) if projection == "gate_up_proj" else (rows, width)
    # Groups are made along the inputs; which side these are on shows only in the size of the hidden state.
    known = turned or hidden == _hidden_size(config) != other
    if not parts or not known or rows % len(parts):
        raise UnsupportedModel(
            f"tensor {tensor.name} {tensor.shape}: experts in this layout cannot be quantized"
        )
    shape = (count, rows // len(parts), width)
    names = [f"{group}.{part}.weight" for part in parts]
    kinds = [kind_of(name, shape, kind) for name in names]
    if None in kinds:
        yield Item(tensor.name, tensor.dtype, tensor.shape, (Source.of(located),))
        return
    for place, (name, chosen) in enumerate(zip(names, kinds, strict=True)):
        sources = _split(Source.of(located), count)
        if not turned:
            sources = [_split(source, len(parts))[place] for source in sources]
        columns = Turned(place, len(parts)) if turned else None
        yield Item(name, tensor.dtype, shape, tuple(sources), chosen, columns)


def _hidden_size(config: dict[str, Any]) -> Any:
    text = config.get("text_config")
    return (text if isinstance(text, dict) else config).get("hidden_size")


def _expert_blobs(group: str, projections: dict[str, dict[int, Located]], kind: str | None) -> list[Blob]:
    items = []
    count = len(next(iter(projections.values())))
    for projection, experts in projections.items():
        name = f"{group}.{projection}.weight"
        if sorted(experts) != list(range(count)):
            raise BadModelFiles(
                f"{name}: there are tensors of {len(experts)} experts, expected 0 to {count - 1}"
            )
        ordered = [experts[index] for index in range(count)]
        layouts = {(located.tensor.dtype, located.tensor.shape) for located in ordered}
        if len(layouts) > 1:
            raise BadModelFiles(f"{name}: the experts' tensors differ in shape or dtype")
        dtype, shape = layouts.pop()
        items.append(_item(name, dtype, (count, *shape), ordered, kind))
    if len({item.kind for item in items}) == 1:
        return [_blob(*items, name=group)]
    return [_blob(item) for item in items]


def _blob(*items: Item, name: str = "") -> Blob:
    kind = items[0].kind
    metadata = {"quant_type": kind, "group_size": str(KINDS[kind].group_size)} if kind else {}
    return Blob(name or items[0].name, items, metadata)


def _common_dtype(found: Found) -> str:
    sizes: Counter[str] = Counter()
    for located in found.values():
        sizes[located.tensor.dtype] += located.tensor.size
    return sizes.most_common(1)[0][0].lower() if sizes else ""


# A model that is quantized already.


def _plan_quantized(found: Found, parts: Mapping[str, Part], written: Written) -> Plan:
    """Every matrix in one blob with what belongs to it, under the store's names; nothing is converted."""
    items = {name: _as_it_is(stored, parts[stored], found) for name, stored in stored_names(parts).items()}
    names = {*parts, *items}
    blobs: list[Blob] = []
    kinds: Counter[str] = Counter()
    parameters = 0
    for stored, part in parts.items():
        require_whole(part, names)
        item, blocks = items[part.name], part.layout == "blocks"
        if part.role is None or (blocks and item.dtype != "U8"):
            _require_float(stored, item.dtype)
            blobs.append(_blob(item))
            kinds[item.dtype] += 1
            parameters += math.prod(item.shape)
            continue
        if blocks:
            blobs.append(_blob(item))
        if part.role == "weight":
            settings = written.settings(part, item, items.get(part.path + SCALES))
            kinds[quant_type(settings)] += 1
            parameters += logical_count(item, settings)
            if not blocks:
                blobs.append(_fused(part, items, settings))
    quantized = [kind for kind in kinds if kind not in FLOATS]
    return Plan(tuple(blobs), quantized[0] if len(quantized) == 1 else "", True, parameters, kinds)


def _as_it_is(stored: str, part: Part, found: Found) -> Item:
    """A tensor in MLX's types and under the store's name; blocks keep theirs, since the store has none for them."""
    located = found[stored]
    tensor = in_mlx_types(located.tensor, part)
    role = None if part.layout == "blocks" else part.role
    name = f"{part.path}{WEIGHT}{IN_THE_STORE[role]}" if role else stored
    return Item(name, tensor.dtype, tensor.shape, (Source.of(located, inverted=part.inverted),))


def _fused(codes: Part, items: Mapping[str, Item], settings: Quantization | None) -> Blob:
    """Without metadata if the settings are in doubt; shapes tell our loader, which knows the model."""
    names = (f"{codes.path}.{role}" for role in ROLES)
    metadata = (
        {"quant_type": quant_type(settings), "group_size": str(settings.group_size)} if settings else {}
    )
    return Blob(codes.name, tuple(items[name] for name in names if name in items), metadata)
