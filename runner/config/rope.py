"""What config.json says of rotary positions: the angle of pair i at position p is p / period[i].

The scaled variants only change the periods, once, at load, so a key is rotated the same whenever it is written and
chunks stay exact. Definitions are those of Hugging Face's transformers (modeling_rope_utils.py), which the models
were made with. What is not defined here is an error: a wrong angle shows as a model that slowly loses its mind.

"dynamic" (NTK) picks its base from the length reached so far, which keys already cached cannot follow. It equals no
scaling up to `max_position_embeddings`, and there we end: the context length never goes beyond that.

Knows nothing about arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from runner.config.fields import MAX_HEAD_WIDTH, MAX_POSITIONS, Config, Fields, shown
from runner.errors import BadModelFiles, UnsupportedModel

DEFAULT_THETA = 10_000.0  # of most architectures here; the well-known 1e6 of Qwen stands in its files

STILL = 1e30  # the period of a pair that does not turn: finite, since fast arithmetic may not know infinity

KNOWN = (
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "finetuned"),
    *("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
)
"""Fields that transformers defines for the types here, and `finetuned`, which no formula uses. It ignores a field
that belongs to another type, so we do; a field that nobody knows (a vendor's `alpha`) would change the angles."""


@dataclass(frozen=True)
class RopeConfig:
    """How to rotate: the angle of pair i at position p is p * scale / period[i]."""

    dims: int  # the first `dims` numbers of a head are rotated, the others pass; 0 for no positions
    theta: float
    scale: float = 1.0
    periods: tuple[float, ...] | None = None  # [dims/2]; None for theta^(2i/dims)
    magnitude: float = 1.0  # yarn: rotated queries and keys are multiplied by it
    traditional: bool = False  # pairs of neighbours instead of halves

    @classmethod
    def read(cls, fields: Fields, head_dim: int, positions: int, *, partial: bool = False) -> RopeConfig:
        """From `rope_scaling` or the newer `rope_parameters`; transformers prefers the older if both are there.

        `rope_theta` and `partial_rotary_factor` stand inside (newer) or beside; inside wins.

        partial: whether this architecture can rotate a part of each head. Where it cannot, readers of a file that
        asks for it disagree: transformers 5 rotates whole heads (or fails, if positions are scaled), vLLM a part.
        """
        kind, scaling = read_scaling(fields)
        theta = scaling.number("rope_theta", fields.number("rope_theta", DEFAULT_THETA, above=1), above=1)
        rotary = scaling.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
        whole = kind == "proportional"  # spreads its pairs over whole heads, in every architecture
        if rotary != 1 and not partial and not whole:
            raise UnsupportedModel(
                f"config.json: partial_rotary_factor {rotary:g} is not supported by this architecture: it rotates"
                " whole heads, so only 1 is"
            )
        dims = _rotated(head_dim, 1.0 if whole else rotary)
        base = cls(dims, theta, traditional=fields.flag("rope_traditional", False))
        scaling = scaling.with_values(scaling.values | {"partial_rotary_factor": rotary})
        return TYPES[kind](base, scaling, _original(fields, scaling, positions), positions)


def read_scaling(fields: Fields) -> tuple[str, Fields]:
    """The type of the scaling, one of TYPES, and the fields that it has beside it."""
    where = "rope_scaling" if fields.mapping("rope_scaling") else "rope_parameters"
    values = fields.mapping(where) or {}
    _refuse_unknown(values, where)
    scaling = Fields(values, f"config.json: {where}")
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind not in TYPES:
        raise UnsupportedModel(
            f"config.json: {where} of type {shown(kind)} is not supported; these are: {', '.join(TYPES)}"
        )
    return kind, scaling


def _default(base: RopeConfig, scaling: Fields, original: int, positions: int) -> RopeConfig:
    return base


def _dynamic(base: RopeConfig, scaling: Fields, original: int, positions: int) -> RopeConfig:
    scaling.number("factor")  # asked for although unused within the context length, to refuse broken files
    return base


def _linear(base: RopeConfig, scaling: Fields, original: int, positions: int) -> RopeConfig:
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595): positions divided by `factor`."""
    return replace(base, scale=1.0 / scaling.number("factor"))


def _llama3(base: RopeConfig, scaling: Fields, original: int, positions: int) -> RopeConfig:
    """Llama 3.1: slow pairs are stretched by `factor`, fast ones kept, a ramp in frequency between."""
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if high <= low:
        raise scaling.wrong("high_freq_factor", f"a number above low_freq_factor, {low:g}")

    def stretched(period: float) -> float:
        turns = original / (2 * math.pi * period)  # full turns of this pair within the original context
        keep = min(max((turns - low) / (high - low), 0.0), 1.0)
        return period / (keep + (1 - keep) / factor)

    return replace(base, periods=tuple(stretched(period) for period in _periods(base)))


def _yarn(base: RopeConfig, scaling: Fields, original: int, positions: int) -> RopeConfig:
    """YaRN (Peng et al. 2023, arXiv 2309.00071): pairs turning more than `beta_fast` times in the original
    context are kept, those turning less than `beta_slow` times stretched by `factor`, a ramp over the index
    between.
    """
    factor = scaling.number("factor", positions / original)
    fast = scaling.optional_number("beta_fast") or 32.0
    slow = scaling.optional_number("beta_slow") or 1.0
    low, high = (_pair_turning(turns, base, original) for turns in (fast, slow))
    if scaling.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, base.dims - 1)
    high = high + 0.001 if low == high else high  # a step, without dividing by zero

    def stretched(index: int, period: float) -> float:
        keep = 1 - min(max((index - low) / (high - low), 0.0), 1.0)
        return period / (keep + (1 - keep) / factor)

    periods = tuple(stretched(index, period) for index, period in enumerate(_periods(base)))
    return replace(base, periods=periods, magnitude=_yarn_magnitude(scaling, factor))


def _proportional(base: RopeConfig, scaling: Fields, original: int, positions: int) -> RopeConfig:
    """Gemma 4: pairs are spread over the whole head, and the slowest of them, all but a part of
    `partial_rotary_factor`, stand still.
    """
    factor, part = scaling.number("factor", 1.0), scaling.number("partial_rotary_factor")
    if part > 1:
        raise scaling.wrong("partial_rotary_factor", "a number up to 1")
    turning = int(part * base.dims // 2)
    periods = [factor * period for period in _periods(base)[:turning]]
    return replace(base, periods=(*periods, *[STILL] * (base.dims // 2 - turning)))


TYPES = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "proportional": _proportional,
}


def _yarn_magnitude(scaling: Fields, factor: float) -> float:
    """`attention_factor` if given; else DeepSeek's quotient if both mscales are (and not 0); else the paper's."""
    given = scaling.optional_number("attention_factor")
    if given is not None:
        return given
    mscale = scaling.optional_number("mscale")
    mscale_all_dim = scaling.optional_number("mscale_all_dim")
    growth = 0.1 * math.log(max(factor, 1.0))
    if mscale and mscale_all_dim:
        return (mscale * growth + 1) / (mscale_all_dim * growth + 1)
    return growth + 1


def _pair_turning(turns: float, base: RopeConfig, original: int) -> float:
    """The (fractional) index of the pair that makes so many full turns within the original context."""
    return base.dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base.theta))


def _periods(base: RopeConfig) -> list[float]:
    # In Python's doubles: rounding to float32 happens once, at the end.
    return [base.theta ** (i / base.dims) for i in range(0, base.dims, 2)]


def _rotated(head_dim: int, rotary: float) -> int:
    if head_dim > MAX_HEAD_WIDTH:
        raise BadModelFiles(f"config.json: a head has {head_dim} numbers, limit {MAX_HEAD_WIDTH}")
    dims = int(head_dim * rotary)
    if not 2 <= dims <= head_dim or dims % 2:
        raise BadModelFiles(
            f"config.json: partial_rotary_factor {rotary:g} of head_dim {head_dim} rotates {dims} numbers,"
            f" expected an even number from 2 to {head_dim}"
        )
    return dims


def _original(fields: Fields, scaling: Fields, positions: int) -> int:
    """`original_max_position_embeddings` beside the rope fields (as Phi has it) wins over the one inside."""
    name = "original_max_position_embeddings"
    inside = scaling.integer(name, positions, high=MAX_POSITIONS)
    return fields.integer(name, inside, high=MAX_POSITIONS)


def _refuse_unknown(values: Config, where: str) -> None:
    for name in values:
        if name not in KNOWN:
            raise UnsupportedModel(f"config.json: {where} has a field that is not supported: {shown(name)}")
