"""The cases that every dense relative of Llama has."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.ropes import NEWER, OLDER
from tests.parts.case import Case

SHAPES: dict[str, Config] = {
    "tied": {"tie_word_embeddings": True},
    "no head_dim": {"head_dim": None, "num_attention_heads": 4, "num_key_value_heads": 2},
    "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
}


def common_cases(kind: str, plain: Config | None = None, without: tuple[str, ...] = ()) -> list[Case]:
    """Ropes, heads, widths. `plain` is what all of them have; `without` names those that it leaves out."""
    architecture, fields = f"{kind}ForCausalLM", {"sliding_window": None, **(plain or {})}
    older = {f"{name} rope": rope for name, rope in OLDER.items()} | SHAPES
    newer = {f"{name} rope_parameters": {"rope_parameters": rope} for name, rope in NEWER.items()}
    return [
        *(
            Case(f"{kind} {name}", architecture, {**fields, **row})
            for name, row in older.items()
            if name not in without
        ),
        *(
            Case(f"{kind} {name}", architecture, {**fields, **row}, ("rope_theta",))
            for name, row in newer.items()
        ),
    ]
