"""Files of models, as somebody else may have written them: descriptions, weights, and a host's manifests."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reliability import changes
from reliability.kinds import Kind, loaded, tried
from reliability.model import CONFIG, WEIGHTS, tokenizer_json
from reliability.process import Process
from reliability.tokenizers import rebuilt
from runner.models import ARCHITECTURES

PROMPTS = ("Hello, world", "a" * 30 + "! \u00e9\u65e5\U0001f642\0<|end|>")
MEMORY = {"MLX_RUNNER_MEMORY": "1G"}
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
MORE_FIELDS: Mapping[str, Any] = {
    "head_dim": 8,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 128},
    "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0},
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"],
    "quantization": {"group_size": 32, "bits": 4},
    "quantization_config": {"quant_method": "mxfp4"},
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "attention_bias": True,
    "mlp_bias": False,
    "partial_rotary_factor": 0.5,
    "auto_map": {"AutoModel": "x.py"},
    "model_file": "model.py",
    "eos_token_id": [256, 257],
    "text_config": {"hidden_size": 32},
}  # fmt: skip


class ModelFile(Kind):
    """A directory in which one file is another one for each input."""

    file = ""

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model)
        self.changed = folder / self.name
        shutil.copytree(model, self.changed)
        self.original = (model / self.file).read_bytes()

    @property
    def environment(self) -> Mapping[str, str]:
        return MEMORY

    def give(self, process: Process, data: bytes) -> str:
        (self.changed / self.file).write_bytes(data)
        if not loaded(process, str(self.changed), self.secrets):
            return "refused"
        return tried(process, PROMPTS)


class Config(ModelFile):
    name = "config"
    file = "config.json"
    share = 2.0

    def make(self, chance: random.Random) -> bytes:
        config = dict(CONFIG)
        if chance.random() < 0.4:
            config["architectures"] = [chance.choice(sorted(ARCHITECTURES))]
        if chance.random() < 0.5:
            for name in chance.sample(sorted(MORE_FIELDS), chance.randint(1, 4)):
                config[name] = MORE_FIELDS[name]
        if chance.random() < 0.3:
            config[chance.choice(SIZES)] = chance.choice(changes.NUMBERS)
        return changes.json_bytes(chance, config)


class TokenizerFile(ModelFile):
    name = "tokenizer"
    file = "tokenizer.json"
    share = 3.0

    def make(self, chance: random.Random) -> bytes:
        value = rebuilt(chance, json.loads(tokenizer_json()))
        return changes.json_bytes(chance, value) if chance.random() < 0.7 else changes.spelled(value)


class Weights(ModelFile):
    """The header of safetensors, its length, and now and then the data behind it."""

    name = "safetensors"
    file = WEIGHTS
    share = 3.0

    def make(self, chance: random.Random) -> bytes:
        length = int.from_bytes(self.original[:8], "little")
        header, data = json.loads(self.original[8 : 8 + length]), self.original[8 + length :]
        if chance.random() < 0.3:
            return changes.damaged(chance, self.original)
        text = changes.json_bytes(chance, header if chance.random() < 0.6 else _some(chance, header))
        stated = len(text)
        if chance.random() < 0.1:
            stated = chance.choice((0, 1, 8, len(text) - 1, len(text) + 1, 2**32, 2**63, 2**64 - 1))
        if chance.random() < 0.1:
            data = changes.damaged(chance, data)
        return stated.to_bytes(8, "little") + text + data


def _some(chance: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    """One entry alone, in which every change counts."""
    name = chance.choice([name for name in header if name != "__metadata__"])
    return {name: header[name]}


class Manifests(Kind):
    """A host's store with one model in it, whose manifest is another one for each input."""

    name = "manifests"
    share = 2.0

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model)
        self.store = folder / "store"
        self.path = self.store / "manifests/registry.ollama.ai/library/tiny/latest"
        self.path.parent.mkdir(parents=True)
        (self.store / "blobs").mkdir()
        layers = [self._layer(path) for path in sorted(model.iterdir())]
        self.manifest = {"schemaVersion": 2, "config": layers[0], "layers": layers}

    @property
    def environment(self) -> Mapping[str, str]:
        return {**MEMORY, "OLLAMA_MODELS": str(self.store)}

    def make(self, chance: random.Random) -> bytes:
        return changes.json_bytes(chance, self.manifest)

    def give(self, process: Process, data: bytes) -> str:
        self.path.write_bytes(data)
        if not loaded(process, "tiny", self.secrets):
            return "refused"
        return tried(process, PROMPTS)

    def _layer(self, path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        (self.store / f"blobs/sha256-{digest}").write_bytes(data)
        kind = "tensor" if path.name == WEIGHTS else "json"
        return {
            "mediaType": f"application/vnd.ollama.image.{kind}",
            "name": path.name,
            "digest": f"sha256:{digest}",
            "size": len(data),
        }
