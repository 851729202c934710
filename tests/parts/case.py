"""A tiny model of some architecture: what its config.json says, and tokens for it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from runner.config.fields import Config

VOCABULARY = 300
TINY: Config = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,  # not hidden_size / heads, nor a divisor-friendly 64
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Case:
    """One tiny model: what its config.json says beyond TINY, and what the reference must be told otherwise."""

    name: str
    architecture: str
    fields: Config = field(default_factory=dict)
    without: tuple[str, ...] = ()  # fields of TINY that it leaves out
    windows: tuple[int | None, ...] = (None, None)  # the reference's, by hand; one for each cache

    @property
    def text(self) -> Config:
        """What config.json says of the text model."""
        given = {**TINY, **self.fields}
        return {name: value for name, value in given.items() if name not in self.without}

    @property
    def config(self) -> Config:
        """The whole config.json."""
        multimodal = self.architecture.endswith("ForConditionalGeneration")
        text = {"text_config": self.text} if multimodal else self.text
        return {"architectures": [self.architecture], **text}


def some_tokens(count: int, seed: str = "tokens") -> list[int]:
    """The same ones for the same seed."""
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(count)]
