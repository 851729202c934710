"""transformers' own frequencies of rotary positions, without torch: its function is taken out of its source and
run over a list of numbers that stands in for a tensor.

It is what each architecture does with the type "default"; the other types have functions that all share.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from runner.config.fields import Config

NAME = "compute_default_rope_parameters"


class Numbers(list[float]):
    """As much of a tensor as the function asks for."""

    def __truediv__(self, divisor: float) -> Numbers:
        return Numbers(number / divisor for number in self)

    def __rtruediv__(self, dividend: float) -> Numbers:
        return Numbers(dividend / number for number in self)

    def __rpow__(self, base: float) -> Numbers:
        return Numbers(base**number for number in self)

    def to(self, device: object) -> Numbers:
        return self


class Torch:
    float = None

    @staticmethod
    def arange(start: int, stop: int, step: int, dtype: object) -> Numbers:
        return Numbers(range(start, stop, step))


def default_frequencies(module: str, configuration: str, config: Config, layer_type: str = "") -> list[float]:
    """Radians per position of each pair. module: under `transformers.models`; configuration: its class;
    layer_type: where the kinds of layers have rotations of their own.
    """
    made = getattr(importlib.import_module("transformers"), configuration)(
        **copy.deepcopy(config)
    )  # it writes there
    kind = {"layer_type": layer_type} if layer_type else {}
    frequencies, _ = _function(module)(made, **kind)
    return list(frequencies)


def _function(module: str) -> Callable[..., Any]:
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "models" / module / f"modeling_{module}.py"
    (node,) = (node for node in ast.walk(ast.parse(path.read_text())) if _is_text_rope(node))
    (function,) = (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == NAME)
    function.decorator_list = []
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    names: dict[str, Any] = {"torch": Torch}
    exec(compile(ast.Module([function], []), str(path), "exec"), names)
    taken: Callable[..., Any] = names[NAME]
    return taken


def _is_text_rope(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    return (
        isinstance(node, ast.ClassDef)
        and node.name.endswith("RotaryEmbedding")
        and any(isinstance(part, ast.FunctionDef) and part.name == NAME for part in node.body)
    )
