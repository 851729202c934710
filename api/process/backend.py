"""MLX may be missing where everything else is installed: its backends are extras.

Knows nothing about what MLX is needed for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runner.errors import BackendMissing


@contextlib.contextmanager
def mlx_needed() -> Iterator[None]:
    """Around imports that bring MLX in; BackendMissing where it cannot be imported."""
    try:
        yield
    except ImportError as error:
        if "mlx" not in str(error):
            raise
        raise BackendMissing(
            "MLX has no backend on this machine: pip install 'mlx-runner[cpu]', "
            f"or the extra cuda12 or cuda13 ({error})"
        ) from None
