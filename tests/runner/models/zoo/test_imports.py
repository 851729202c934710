"""What is imported of mlx-lm, and what happens without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.models import zoo

ROOT = Path(__file__).parents[4]


def test_the_table_of_types_is_mlx_lms() -> None:
    from mlx_lm import utils

    assert zoo.MODULES == utils.MODEL_REMAPPING
    assert zoo.MODULES_OF_ARCHITECTURES == utils.MODEL_ARCHITECTURE_REMAPPING


@pytest.mark.parametrize("name", ["NemotronHForCausalLM", "Phi3ForCausalLM"])
def test_a_completion_needs_nothing_of_mlx_lm_but_its_models(folders: dict[str, Path], name: str) -> None:
    """Neither transformers, which takes a second, nor its own lower limit of open files."""
    program = f"""
import resource, sys
for name in ("transformers", "huggingface_hub", "numpy", "safetensors"):
    sys.modules[name] = None
from runner.loading.loader import load
from runner.generation.alone import complete
from runner.store.resolve import open_model
from runner.types import Done, GenerateRequest
before = resource.getrlimit(resource.RLIMIT_NOFILE)
loaded = load(open_model({str(folders[name])!r}), lambda share: None)
events = complete(loaded, GenerateRequest("hello", 3))
assert isinstance(events[-1], Done), events
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
theirs = {{name for name in sys.modules if name.startswith("mlx_lm")}}
assert all(name in ("mlx_lm", "mlx_lm.models") or name.startswith("mlx_lm.models.") for name in theirs), theirs
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_without_the_extra_an_error_names_it(folders: dict[str, Path]) -> None:
    program = f"""
import sys
sys.modules["mlx_lm"] = None
from runner.errors import UnsupportedModel
from runner.loading.loader import load
from runner.store.resolve import open_model
try:
    load(open_model({str(folders["Phi3ForCausalLM"])!r}), lambda share: None)
except UnsupportedModel as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True
    )
    message = done.stdout.strip()
    assert message.startswith('architecture "Phi3ForCausalLM" is not supported; these are: ')
    assert message.endswith("; with pip install 'mlx-runner[zoo]' those of mlx-lm are")
