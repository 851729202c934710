"""The engine: tokens and arrays. Knows nothing about HTTP, asyncio or pydantic (those live in `api/`)."""

from runner.machine.blas import open_blas

# Before anything can import mlx: see blas.py for why the order matters.
open_blas()
