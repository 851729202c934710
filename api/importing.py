"""`mlx-runner import DIR --name NAME`: a Hugging Face directory into the model store, with a bar to look at.

Knows nothing about servers: it loads no model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from api.environment import model_store
from api.lifecycle import MODEL, OTHER, STOPPED
from runner.errors import LoadError
from runner.store import names
from runner.store.importer import Summary, import_directory

BAR = 30  # characters

EPILOG = """\
example:
  mlx-runner import ~/models/Llama-3.2-1B --name llama3.2:1b --template llama3.gotmpl

The store is $OLLAMA_MODELS, or ~/.ollama/models. Float weights (F32, F16, BF16) are copied as they are. A host
needs a chat template in Go's template language to chat with the model; without one it passes prompts as they are.
"""


def main(argv: Sequence[str]) -> NoReturn:
    """Import and leave: 0 done, 2 usage, 4 the model, 1 anything else, 130 interrupted."""
    options = _parser().parse_args(argv)
    name = names.parse(options.name)
    if name is None:
        _parser().error(f"--name {options.name!r}: expected NAME, NAME:TAG or NAMESPACE/NAME:TAG")
    store = model_store()
    try:
        template = options.template.read_text(encoding="utf-8") if options.template else None
        summary = import_directory(options.directory, name, store, template, _show_progress)
    except KeyboardInterrupt:
        _end("interrupted: nothing was imported", 130)
    except LoadError as error:
        _end(f"Error: {error}", MODEL)
    except (OSError, UnicodeDecodeError) as error:
        _end(f"Error: {error}", OTHER)
    print(_told(summary, store))
    if template is None:
        print("note: no --template was given, so hosts will pass prompts as they are and chat without roles")
    sys.exit(STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-runner import",
        description="Write a float Hugging Face model directory into the Ollama model store.",
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
    return parser


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        filled = BAR * done // total
        end = "\n" if done == total else ""
        bar = "#" * filled + "." * (BAR - filled)
        print(f"\rimporting [{bar}] {done}/{total} tensors", end=end, file=sys.stderr, flush=True)


def _told(summary: Summary, store: Path) -> str:
    size = summary.weight_bytes / 1e6
    return (
        f"imported {summary.name}: {summary.tensors} tensors, {summary.parameters:,} parameters, "
        f"{size:.1f} MB of {summary.dtype}, into {store}"
    )


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
