"""What stands before the names of text tensors in multimodal checkpoints."""

from __future__ import annotations


def outside(name: str) -> str:
    """`language_model.model.layers...`"""
    return f"language_model.{name}"


def inside(name: str) -> str:
    """`model.language_model.layers...`"""
    return name.replace("model.", "model.language_model.", 1)


def bare(name: str) -> str:
    """As in a text model."""
    return name
