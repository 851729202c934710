"""Which model is measured, what it is asked, and on what machine.

Knows nothing about measuring.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from published.wheel import cache_folder

from benchmark import inside, random_models
from benchmark.known import DEMO, NAMES, RANDOM, SMOLLM2
from benchmark.samples import Bias, Prompt, Trouble

BAN = -1e9  # added to an end-of-sequence token's logit
SCRIPTS = Path(__file__).parent.parent
WORDS = """
the of and to in a is that it was for on are with as his they be at one have this from or had by hot but some what
there we can out other were all your when up use word how said an each she which do their time if will way about
"""


def folder_of(model: str) -> Path:
    """The directory of a model that we know by name, made if need be, or the one that was named."""
    if model == DEMO:
        return inside.DEMO_FOLDER
    if model not in (*RANDOM, *SMOLLM2):
        return Path(model)
    folder = cache_folder() / model
    if model in RANDOM:
        return random_models.written(model, folder)
    makers = [SCRIPTS / "smollm2.py", *(SCRIPTS / "published").glob("*.py")]
    if not folder.exists() or folder.stat().st_mtime < max(maker.stat().st_mtime for maker in makers):
        command = [sys.executable, str(SCRIPTS / "smollm2.py"), str(folder), *SMOLLM2[model]]
        if subprocess.run(command, stdout=sys.stderr).returncode:
            raise Trouble(f"the model {model} could not be made; why is above")
    return folder


def make_prompt(tokenizer: inside.Tokenizer, number: int, count: int) -> Prompt:
    """About `count` tokens of plain words; no two numbers begin alike."""
    draw = random.Random(number)
    text = f"{number + 1}: " + " ".join(draw.choices(WORDS.split(), k=count))
    text = tokenizer.decode(tokenizer.encode(text)[:count])
    return Prompt(text, tokenizer.encode(text))


def endless(tokenizer: inside.Tokenizer) -> Bias:
    """No end-of-sequence token is drawn, so each request generates as many tokens as it was asked for."""
    return tuple((token, BAN) for token in sorted(tokenizer.eos_ids))


def circumstances(model: str, folder: Path, prompt: Prompt, generated: int, rounds: int) -> dict[str, Any]:
    """The head of every report."""
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "model": model if model in NAMES else folder.resolve().name,
        "weight_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "prompt_tokens": len(prompt.ids),
        "generated_tokens": generated,
        "rounds": rounds,
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": inside.device_kind(),
        "gpu": inside.gpu_name(),
        "blas": inside.blas_name(),
        "compiler": any(shutil.which(name) for name in ("g++", "clang++", "c++")),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx_lm": _version_or_none("mlx-lm"),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    return platform.processor() or platform.machine()


def _version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
