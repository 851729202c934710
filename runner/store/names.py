"""Names of models in an Ollama store: host/namespace/model:tag, shortened where the default holds.

A name becomes a path, so nothing but the legal characters gets through.

Knows nothing about what lies under a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")


@dataclass(frozen=True, slots=True)
class Name:
    """A full name; every part is legal."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def path(self) -> Path:
        """Where its manifest lies below the store's manifests folder."""
        return Path(self.host, self.namespace, self.model, self.tag)

    def __str__(self) -> str:
        """The shortest spelling, always with the tag."""
        parts = [self.host, self.namespace, self.model]
        if self.host == DEFAULT_HOST:
            parts = parts[1:] if self.namespace != DEFAULT_NAMESPACE else parts[2:]
        return f"{'/'.join(parts)}:{self.tag}"


def parse(text: str) -> Name | None:
    """A Name, or None for what cannot be one."""
    rest, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        rest, tag = text, DEFAULT_TAG
    parts = rest.split("/")
    if len(parts) > 3:
        return None
    host, namespace, model = [DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(parts)] + parts
    legal = HOST.fullmatch(host) and NAMESPACE.fullmatch(namespace)
    if not (legal and PART.fullmatch(model) and PART.fullmatch(tag)):
        return None
    return Name(host, namespace, model, tag)
