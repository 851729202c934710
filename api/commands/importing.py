"""`mlx-runner import DIR --name NAME`: a Hugging Face directory into the model store, with a bar to look at.

Knows nothing about servers: it loads no model.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from api.process.backend import mlx_needed
from api.process.environment import model_store
from api.process.lifecycle import MODEL, OTHER, STOPPED
from runner.errors import BackendMissing, LoadError
from runner.importing.importer import Quantize, Summary, import_directory
from runner.quantization.settings import KINDS
from runner.store import names

BAR = 30  # characters
REDRAWN_S = 0.05

EPILOG = """\
examples:
  mlx-runner import ~/models/Llama-3.2-1B --name llama3.2:1b --template llama3.gotmpl
  mlx-runner import ~/models/Llama-3.2-1B --name llama3.2:1b-int4 --template llama3.gotmpl --quantize int4

The store is $OLLAMA_MODELS, or ~/.ollama/models; a model of the same name is replaced. A host needs a chat template
in Go's template language to chat with the model; without one it passes prompts as they are.

Weights are copied as they are: floats (F32, F16, BF16), quantized ones of MLX (mlx-community's), nvfp4 of ModelOpt
and compressed-tensors. --quantize makes the matrices of a float model smaller:

  int4    4.5 bits a number, groups of 64 with scale and bias     int8    8.5 bits, the same
  mxfp4   4.25 bits, groups of 32 with a power of two             mxfp8   8.25 bits, the same
  nvfp4   4.5 bits, groups of 16 with a small float

Embeddings, norms and routers stay floats. Where 4 bits are asked for, the head (or the embedding that is the head,
too) and v_proj, k_proj and down_proj get 8: int8 beside int4, else mxfp8 (but not in experts).
`mlx-runner show NAME` counts them.
"""


def main(argv: Sequence[str]) -> NoReturn:
    """Import and leave: 0 done, 2 usage, 4 the model, 1 anything else, 130 interrupted."""
    options = _parser().parse_args(argv)
    name = names.parse(options.name)
    if name is None:
        _parser().error(f"--name {options.name!r}: expected NAME, NAME:TAG or NAMESPACE/NAME:TAG")
    store = model_store()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends an import as Ctrl-C does
    try:
        template = options.template.read_text(encoding="utf-8") if options.template else None
        quantize = _quantize() if options.quantize else None
        summary = import_directory(
            options.directory, name, store, template, Bar().show, kind=options.quantize, quantize=quantize
        )
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # below the bar
        _end("interrupted: nothing was imported", 130)
    except (BackendMissing, OSError, UnicodeDecodeError) as error:
        _end(f"Error: {error}", OTHER)
    except LoadError as error:
        _end(f"Error: {error}", MODEL)
    print(_told(summary, store))
    if template is None:
        print("note: no --template was given, so hosts will pass prompts as they are and chat without roles")
    sys.exit(STOPPED)


def _quantize() -> Quantize:
    with mlx_needed():
        from runner.importing.quantizing import quantize
    return quantize


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-runner import",
        description="Write a Hugging Face model directory into the Ollama model store.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="config.json, tokenizer.json, *.safetensors"
    )
    parser.add_argument(
        "--name", required=True, metavar="NAME", help="what hosts will call it, for example demo"
    )
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="chat template in Go's template language"
    )
    parser.add_argument(
        "--quantize", choices=list(KINDS), metavar="KIND", help=f"{', '.join(KINDS)}: see below"
    )
    return parser


class Bar:
    """One line on a terminal, drawn over and over; nothing anywhere else."""

    def __init__(self) -> None:
        self._drawn = float("-inf")

    def show(self, done: int, total: int, tensor: str) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or (tensor and now < self._drawn + REDRAWN_S):
            return
        self._drawn = now
        filled = BAR * done // max(total, 1)
        bar = "#" * filled + "." * (BAR - filled)
        line = f"importing [{bar}] {_megabytes(done)} of {_megabytes(total)} {tensor}"
        line = line[: shutil.get_terminal_size().columns - 1]
        print(f"\r{line}\x1b[K", end="" if tensor else "\n", file=sys.stderr, flush=True)


def _told(summary: Summary, store: Path) -> str:
    plan, size = summary.plan, _megabytes(summary.source_bytes)
    kinds = ", ".join(f"{count} {kind}" for kind, count in plan.kinds.most_common())
    if not plan.quantized:
        size += f" of {plan.file_type.upper()}"
    elif summary.weight_bytes < 0.9 * summary.source_bytes:
        size += f" to {_megabytes(summary.weight_bytes)}"
    tensors = f"{plan.kinds.total()} tensors{f' ({kinds})' if plan.quantized else ''}"
    return f"imported {summary.name}: {tensors}, {plan.parameters:,} parameters, {size}, into {store}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
