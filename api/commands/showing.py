"""`mlx-runner show MODEL`: what a model is, in a few lines.

Knows nothing about servers or weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from api.process.backend import mlx_needed
from api.process.environment import model_store
from api.process.lifecycle import MODEL, OTHER, STOPPED
from runner.errors import BackendMissing, LoadError
from runner.importing.importer import size_text
from runner.store.resolve import open_model

if TYPE_CHECKING:
    from runner.loading.description import Description

EPILOG = """\
examples:
  mlx-runner show demo                    the built-in model, unless the store has one of this name
  mlx-runner show qwen3:0.6b              a name in the model store, $OLLAMA_MODELS or ~/.ollama/models
  mlx-runner show ~/models/Qwen3-0.6B     a Hugging Face directory

Only descriptions are read, no weights. A model that this runner cannot load is shown too, with the reason.
"""


def main(argv: Sequence[str]) -> NoReturn:
    """Show and leave: 0 done, 2 usage, 4 the model, 1 anything else."""
    options = _parser().parse_args(argv)
    try:
        with mlx_needed():
            from runner.loading.description import describe
        description = describe(open_model(options.model, model_store()))
    except BackendMissing as error:
        _end(f"Error: {error}", OTHER)
    except LoadError as error:
        _end(f"Error: {error}", MODEL)
    lines = [description.name]
    for fact, value in _facts(description):
        printable = "".join(c if c.isprintable() else "\ufffd" for c in value)  # it comes from files
        lines.append(f"  {fact:<16}{printable}")
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-runner show",
        description="Show what a model is: architecture, size, quantization, context length.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a directory, or a name in the store")
    return parser


def _facts(it: Description) -> Iterator[tuple[str, str]]:
    yield "architecture", it.architecture if it.known else f"{it.architecture}, not supported by this runner"
    if it.known and it.trouble:
        yield "", f"this runner cannot load it: {it.trouble}"
    yield "parameters", f"{size_text(it.parameters)} ({it.parameters:,})"
    yield "quantization", _quantization(it)
    for fact, number in (
        ("context length", it.context_length),
        ("layers", it.layers),
        ("hidden size", it.hidden_size),
    ):
        if number:
            yield fact, f"{number:,}"
    if it.heads:
        yield "heads", f"{it.heads[0]}, {it.heads[1]} of keys and values"
    if it.experts:
        yield "experts", f"{it.experts[0]} of {it.experts[1]} for each token"
    if it.vocabulary:
        yield "vocabulary", f"{it.vocabulary:,}"
    yield "chat template", " and ".join(it.templates) or "none"
    yield "licence", it.licence or "not given"
    yield "weights on disk", f"{it.weight_bytes / 1e6:,.1f} MB"


def _quantization(it: Description) -> str:
    """int4 (64), 18 of 42 matrices int8 (64); 14 tensors BF16"""
    floats = ", ".join(f"{count} {dtype}" for dtype, count in it.floats.most_common())
    if not it.matrices:
        return f"none: {floats.partition(' ')[2] if len(it.floats) == 1 else floats}"
    (most, _), *others = it.matrices.most_common()
    exceptions = "".join(f", {count} of {it.matrices.total()} matrices {kind}" for kind, count in others)
    return f"{most}{exceptions}; not quantized: {floats}"


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
