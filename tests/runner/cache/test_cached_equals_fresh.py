"""Whatever happened before, a request's logits are those of a fresh computation over the same tokens: within 1e-4
where keys and values are kept as they were computed, within the rounding of a few numbers where they are quantized.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runner import models
from runner.cache.points import Bound
from runner.cache.slots import Slots
from runner.disk.disk_cache import DiskCache
from runner.disk.entry import forms
from runner.disk.folder import open_folder
from runner.disk.identity import probe
from runner.generation.alone import complete
from runner.grammar.compiler import Grammars
from runner.loading.kv_types import memories
from runner.loading.loaded_model import LoadedModel
from runner.models.base import Model
from runner.types import Done, Failed, GenerateRequest, KVType, SamplingOptions
from tests.parts import tiny
from tests.parts.failing import FailingModel, Injected
from tests.parts.fakes import Alarm, tokenizer
from tests.parts.models import Conversation
from tests.parts.quantized_kv import CONFIGS as WHOLE_GROUPS
from tests.parts.quantized_kv import FLIPS

DEADLINE_S = 60.0
USER = "[INST]"  # begins a turn
LETTERS = "abcd"  # few, so that prompts share prefixes by chance too
WORDS = st.lists(st.sampled_from([*LETTERS * 4, USER]), min_size=1, max_size=70).map("".join)
BOUNDS = st.builds(Bound, st.sampled_from([0.0, 0.3, 9.0]), st.integers(1, 3), st.integers(1, 20))

CONFIGS: dict[str, dict[str, Any]] = {
    "borrowed recurrent": {
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "head_dim": 8,
        "mamba_d_ssm": 48,
        "mamba_n_heads": 3,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
    },
    "borrowed rotating": {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "head_dim": 8,
        "sliding_window": 7,
        "sliding_window_pattern": 2,
    },
    "llama": {},
    "recurrent": {
        "architectures": ["Qwen3NextForCausalLM"],
        "full_attention_interval": 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 6,
        "head_dim": 8,
        "num_experts": 0,
    },
    "rotating": {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 8,
        "sliding_window": 7,
        "sliding_window_pattern": 2,
    },
    "latent": {
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "num_key_value_heads": 6,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "sharing": {
        "architectures": ["Gemma4ForCausalLM"],
        "head_dim": 8,
        "global_head_dim": 16,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "sliding_window": 7,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 300,
    },
    "sinks": {
        "architectures": ["GptOssForCausalLM"],
        "head_dim": 8,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 7,
    },
    "window": {"architectures": ["MistralForCausalLM"], "sliding_window": 7},
}

# A kind of model, and how it keeps keys and values. Latents are never quantized.
CASES: list[tuple[str, KVType]] = [(kind, "f16") for kind in CONFIGS]
QUANTIZED: tuple[KVType, ...] = ("q8_0", "q4_0")
CASES += [(f"quantized {kind}", kv_type) for kind in WHOLE_GROUPS for kv_type in QUANTIZED]
CONFIGS |= {f"quantized {kind}": config for kind, config in WHOLE_GROUPS.items()}


class Recording(FailingModel):
    """A FailingModel that keeps the logits it gives."""

    def __init__(self, inner: Model) -> None:
        super().__init__(inner)
        self.seen: list[mx.array] = []

    def logits(self, hidden: mx.array) -> mx.array:
        logits = super().logits(hidden)
        self.seen.append(logits[0, -1])
        return logits


@functools.cache
def real_model(kind: str) -> Model:
    config = tiny.CONFIG | CONFIGS[kind]
    model = models.build(config)
    model.load_weights(list(model.rename(tiny.weights(config)).items()))
    return model


class AnySequenceOfRequests(RuleBasedStateMachine):
    """Requests that share prefixes, edit, repeat, stop, are cancelled or fail, budgets that change, and processes
    that save what they hold and end, in any order.
    """

    @initialize(case=st.sampled_from(CASES), chunk=st.integers(1, 30), bound=BOUNDS)
    def load(self, case: tuple[str, KVType], chunk: int, bound: Bound) -> None:
        kind, self.kv_type = case
        self.model = Recording(real_model(kind))
        found, self.make_memory = memories(self.model.inner, self.kv_type)
        assert found == self.kv_type
        coder = tokenizer(bos=True, more=[USER])
        self.loaded = LoadedModel(
            name="tiny",
            architecture="Tiny",
            model=self.model,
            tokenizer=coder,
            grammars=Grammars(coder, self.model.vocab_size),
            slots=Slots(self.make_memory, bound=bound),
            context_length=self.model.context_length,
            prefill_chunk=chunk,
        )
        self.last_prompt = ""
        self.folder = tempfile.TemporaryDirectory()
        self.start()

    def start(self) -> None:
        """As a new process does."""
        slots = Slots(self.make_memory, bound=self.loaded.slots.bound)
        self.loaded = replace(self.loaded, slots=slots)
        self.disk: DiskCache | None = None
        if (saved := probe(self.model.inner, slots.fresh_memory()).save()) is not None:
            folder = open_folder(Path(self.folder.name), 2**20)
            self.disk = DiskCache(folder, slots, "0" * 64, forms(saved), notable=1)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(saves=st.booleans())
    def restart(self, saves: bool) -> None:
        """The next process has what this one saved, if it did."""
        if self.disk is not None and saves:
            self.disk.finish(DEADLINE_S)
        self.start()

    @rule(bound=BOUNDS)
    def change_what_checkpoints_may_hold(self, bound: Bound) -> None:
        self.loaded.slots.bound = bound

    @rule()
    def run_short_of_memory(self) -> None:
        """As when a request needs what a slot holds that nobody has."""
        self.loaded.slots.spare()
        assert self.loaded.slots.tokens(0) == []

    @rule()
    def save(self) -> None:
        """All that is worth it, while nobody wants anything."""
        if self.disk is not None:
            self.disk.finish(DEADLINE_S)

    @rule(
        keep=st.integers(0, 120),
        more=WORDS,
        limit=st.integers(1, 12),
        stop=st.sampled_from([(), ("a",), ("\n", "x")]),
        seed=st.integers(0, 3),
        cancel_after=st.none() | st.integers(0, 12),
        fail_in=st.none() | st.integers(0, 8),
    )
    def ask(
        self,
        keep: int,
        more: str,
        limit: int,
        stop: tuple[str, ...],
        seed: int,
        cancel_after: int | None,
        fail_in: int | None,
    ) -> None:
        prompt = self.last_prompt[:keep] + more
        self.run(prompt, limit, stop, seed, cancel_after, fail_in)

    @rule(limit=st.integers(1, 12), seed=st.integers(0, 3))
    def repeat(self, limit: int, seed: int) -> None:
        self.run(self.last_prompt or "a", limit, (), seed, None, None)

    @rule(limit=st.integers(1, 12), more=st.text(LETTERS, max_size=5))
    def go_on_from_the_answer(self, limit: int, more: str) -> None:
        known = self.loaded.tokenizer.decode(self.loaded.slots.tokens(0)[1:])
        self.run((known + more)[:200] or "a", limit, (), 0, None, None)

    def run(
        self,
        prompt: str,
        limit: int,
        stop: tuple[str, ...],
        seed: int,
        cancel_after: int | None,
        fail_in: int | None,
    ) -> None:
        self.last_prompt = prompt
        self.model.seen, self.model.fail_in = [], fail_in
        request = GenerateRequest(
            prompt, limit, SamplingOptions(temperature=1.0, top_k=8, seed=seed), stop, logprobs=True
        )
        try:
            restore = self.disk.restore if self.disk is not None else None
            events = complete(self.loaded, request, Alarm(cancel_after), restore)
        except Injected:
            assert self.loaded.slots.tokens(0) == []
        else:
            assert isinstance(events[-1], Done | Failed)
            self.compare(self.loaded.tokenizer.encode(prompt))

    def compare(self, prompt: list[int]) -> None:
        """Every logits of this request that belong to a known token, against one fresh forward."""
        tokens = prompt + self.loaded.slots.tokens(0)[len(prompt) :]
        fresh_one = Conversation(self.model.inner, self.make_memory())
        expected = fresh_one.feed(tokens)[len(prompt) - 1 :]
        for step, (seen, fresh) in enumerate(zip(self.model.seen, expected, strict=False)):
            assert mx.allclose(seen, fresh, rtol=0, atol=FLIPS[self.kv_type]), (
                f"step {step} after {len(prompt)} prompt tokens"
            )

    @invariant()
    def the_entry_is_level_and_recorded(self) -> None:
        """Decoding runs ahead: of a request that ended there may be a position more than tokens that were read."""
        if not hasattr(self, "loaded") or not (tokens := self.loaded.slots.tokens(0)):
            return
        memory = self.loaded.slots.memory(0)
        assert memory.is_level
        assert memory.offset - len(tokens) in (0, 1)
        points = memory.points
        assert list(points.positions) == sorted(points.positions)
        assert all(memory.restorable(point) == point for point in points.positions)


TestAnySequenceOfRequests = AnySequenceOfRequests.TestCase
TestAnySequenceOfRequests.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
