"""mlx_lm.server with the same weights, in a process of its own.

It computes in the runner's dtype and behind the same BLAS, as mlx-lm does in reference.py; all else is its default.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from benchmark import inside

BENCH = Path(__file__).parent.parent / "bench.py"


def command() -> list[str]:
    """What `spawned` starts; it adds the model and the port."""
    return [sys.executable, str(BENCH), "--reference-server"]


def serve(model: str, port: int) -> None:
    """The process itself."""
    try:
        import mlx.core as mx
        from mlx.utils import tree_map

        server: Any = importlib.import_module("mlx_lm.server")  # its types contradict its code
    except ImportError as error:
        sys.exit(f"mlx-lm is missing ({error}): pip install -e '.[dev]'")

    def computed(array: mx.array) -> mx.array:
        """Packed codes are no floats."""
        return (
            array.astype(inside.computed_dtype(array.dtype))
            if mx.issubdtype(array.dtype, mx.floating)
            else array
        )

    class Provider(server.ModelProvider):  # type: ignore[misc]  # its base is Any
        def _load(self, *names: Any) -> None:
            try:
                super()._load(*names)
                self.model.update(tree_map(computed, self.model.parameters()))
                mx.eval(self.model.parameters())
            except Exception:
                # The server would catch it and go on listening without a model.
                logging.exception("%s cannot be loaded", model)
                os._exit(1)

    server.ModelProvider = Provider  # `main` makes one; its command line has all the other defaults
    sys.argv = ["mlx_lm.server", "--model", model, "--port", str(port), "--log-level", "WARNING"]
    server.main()
