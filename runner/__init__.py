"""The engine: tokens and arrays. Knows nothing about HTTP, asyncio or pydantic (those live in `api/`)."""
