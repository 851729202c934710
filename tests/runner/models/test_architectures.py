"""Every architecture against mlx-lm, in float32, however the tokens arrive.

One contract for all: the logits of one chunk, of many chunks, of one token at a time, and behind a rewound prefix
are those of mlx-lm's one forward. The cases stand in `tests/parts/architectures`, mlx-lm's models in
`tests/parts/references`.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import pytest

from runner.cache.base import Storage
from runner.cache.company import Company
from runner.cache.packed import Packed
from runner.kernels import choice
from runner.kernels.rows_attention import PLAIN, AtOnce
from runner.loading.conversion import lay_head_weight, lay_weights
from runner.models import ARCHITECTURES
from runner.models.base import Model
from tests.parts.architectures import CASES
from tests.parts.arrays import difference
from tests.parts.case import some_tokens
from tests.parts.models import Conversation, decoded_together, logits, made
from tests.parts.references import reference
from tests.parts.references.base import Reference

TOLERANCE = 1e-4
TOKENS = some_tokens(72)  # beyond the original context of the cases, so scaled rotary positions leave it


def test_every_row_of_the_table_has_a_case() -> None:
    assert {case.architecture for case in CASES.values()} == set(ARCHITECTURES)


@cache
def pair(name: str) -> tuple[Model, Reference]:
    theirs = reference(CASES[name])
    return made(CASES[name], theirs.checkpoint()), theirs


@cache
def expected(name: str) -> mx.array:
    """mlx-lm's logits [T,V] of TOKENS."""
    return pair(name)[1].logits(TOKENS)


@pytest.mark.parametrize("name", CASES)
def test_one_chunk_gives_the_logits_of_mlx_lm(name: str) -> None:
    """All positions at once, from empty caches."""
    model, _ = pair(name)
    assert difference(logits(model, TOKENS), expected(name)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_many_chunks_give_the_logits_of_mlx_lm(name: str) -> None:
    """Uneven chunks, so that windows and rotary positions are crossed at every kind of seam."""
    model, _ = pair(name)
    assert difference(logits(model, TOKENS, (1, 3, 7, 20)), expected(name)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_decoding_gives_the_logits_of_mlx_lm(name: str) -> None:
    """One token at a time behind a short prompt, past every window, and from there on behind a long one."""
    conversation = Conversation(pair(name)[0])
    parts = [conversation.feed(TOKENS[:5]), conversation.feed(TOKENS[5:30], (1,))]
    parts += [conversation.feed(TOKENS[30:60]), conversation.feed(TOKENS[60:], (1,))]
    assert difference(mx.concatenate(parts), expected(name)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_weights_that_lie_by_inputs_give_the_logits_of_mlx_lm(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever that can be done: no model here is large enough for it to pay."""
    monkeypatch.setattr(choice, "lies_by_inputs", lambda weight: weight.ndim == 2)
    model = made(CASES[name], pair(name)[1].checkpoint())
    lay_head_weight(model)
    lay_weights(model)
    conversation = Conversation(model)
    parts = [conversation.feed(TOKENS[:30]), conversation.feed(TOKENS[30:36], (1,))]
    assert difference(mx.concatenate(parts), expected(name)[:36]) < TOLERANCE


@pytest.mark.parametrize("at_once", [None, PLAIN])
@pytest.mark.parametrize("name", CASES)
def test_rows_that_decode_together_have_the_logits_of_mlx_lm(name: str, at_once: AtOnce | None) -> None:
    """Four rows of different lengths, one of which rests for a while; each is where it would be alone."""
    model, _ = pair(name)
    lengths = [5, 40, 23, 64]
    company, rows = Company(len(lengths), at_once), {}
    for number, length in enumerate(lengths):
        rows[number] = Conversation(model)
        rows[number].feed(TOKENS[:length], (20,))
    for turn in range(6):
        going = {number: row for number, row in rows.items() if number != 1 or turn not in (2, 3)}
        places = [row.offset for row in going.values()]
        found = decoded_together(model, company, going, [TOKENS[place] for place in places])
        assert difference(found, expected(name)[mx.array(places)]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_a_chunk_beside_rows_that_decode_has_the_logits_of_mlx_lm(name: str) -> None:
    """Two rows decode while a prompt is fed in chunks of different lengths."""
    model, _ = pair(name)
    prompt, *rows = (Conversation(model) for _ in range(3))
    if not prompt.memory.holds_only(prompt.memory.attention):
        return  # such a model feeds its prompts alone
    company = Company(2, PLAIN)
    for row, length in zip(rows, (5, 40), strict=True):
        row.feed(TOKENS[:length], (20,))
    for length in (7, 20, 1, 30):
        places = [row.offset for row in rows]
        fed = TOKENS[prompt.offset : prompt.offset + length]
        together = company.of({number: row.memory for number, row in enumerate(rows)})
        packed = Packed(together, [(prompt.memory, length)])
        tokens = mx.array([*(TOKENS[place] for place in places), *fed], mx.int32)
        found = model.logits(model(tokens[:, None], packed.span(), packed))[:, 0]
        wanted = [*places, *range(prompt.offset - length, prompt.offset)]
        assert difference(found, expected(name)[mx.array(wanted)]) < TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_in_halves_computes_in_halves(architecture: str) -> None:
    """Nothing on the way makes the stream, the logits or the keys float32, which would cost twice; only a recurrent
    state is meant to be.
    """
    case = next(case for case in CASES.values() if case.architecture == architecture)
    checkpoint = pair(case.name)[1].checkpoint()
    model = made(case, {name: array.astype(mx.bfloat16) for name, array in checkpoint.items()})
    conversation = Conversation(model)
    for tokens in (TOKENS[:7], TOKENS[7:8]):
        hidden = conversation.forward(tokens)
        assert hidden.dtype == model.logits(hidden).dtype == mx.bfloat16
    memory = conversation.memory
    kept: list[Storage] = [*memory.attention.values(), *memory.latent.values()]
    assert {array.dtype for storage in kept for array in storage.arrays()} == {mx.bfloat16}


ROTATING = [
    name for name in CASES if name.startswith(("Gemma", "GptOss")) and not name.endswith("never left")
]
RECURRENT = [name for name in CASES if name.startswith(("Qwen3Next", "Qwen3_5"))]


def goes_on_as_a_fresh_one(conversation: Conversation, name: str) -> None:
    """The rest behind 37 tokens gives mlx-lm's logits, and bit for bit those of a conversation without a past."""
    rest = conversation.feed(TOKENS[37:], (11,))
    assert difference(rest, expected(name)[37:]) < TOLERANCE
    fresh = Conversation(conversation.model)
    fresh.feed(TOKENS[:37], (25, 12))  # the same chunks, since a matrix product rounds by its shape
    assert mx.array_equal(rest, fresh.feed(TOKENS[37:], (11,)))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ROTATING + RECURRENT])
def test_a_prefix_hit_gives_the_logits_of_mlx_lm(name: str) -> None:
    """Another conversation is rewound to the shared prefix; the rest is fed behind it, as if nothing had been."""
    conversation = Conversation(pair(name)[0])
    conversation.feed(TOKENS[:37] + some_tokens(30, "another end"), (25, 12, 30))
    assert conversation.rewind(37)
    goes_on_as_a_fresh_one(conversation, name)
    assert conversation.rewind(31), "also in the middle of what was one chunk"
    assert difference(conversation.feed(TOKENS[31:], (20,)), expected(name)[31:]) < TOLERANCE


@pytest.mark.parametrize("name", ROTATING)
def test_a_short_rewind_of_a_rotating_storage_gives_the_logits_of_mlx_lm(name: str) -> None:
    """Half a window back it always goes, and what is fed behind it counts as if nothing had been."""
    back = max(1, min(window for window in CASES[name].windows if window) // 2)
    conversation = Conversation(pair(name)[0])
    conversation.feed(TOKENS[:37], (12,))
    conversation.feed(some_tokens(back, "another end"), (1,))
    assert conversation.rewind(37)
    assert difference(conversation.feed(TOKENS[37:], (11,)), expected(name)[37:]) < TOLERANCE


@pytest.mark.parametrize("name", ROTATING)
def test_a_long_rewind_of_a_rotating_storage_is_refused_and_changes_nothing(name: str) -> None:
    conversation = Conversation(pair(name)[0])
    conversation.feed(TOKENS[:60], (7,))
    for storage, window in zip(conversation.memory.storages, CASES[name].windows, strict=True):
        assert window is None or window == 1 or not storage.rewind(20)
    assert conversation.offset == 60
    assert difference(conversation.feed(TOKENS[60:], (1,)), expected(name)[60:]) < TOLERANCE


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_goes_back_to_a_checkpoint_and_gives_the_logits_of_mlx_lm(name: str) -> None:
    """Another conversation is rewound to where the prompt's checkpoint is; then as if nothing had been."""
    conversation = Conversation(pair(name)[0])
    conversation.feed(TOKENS[:37], (25, 12))
    conversation.checkpoint()
    conversation.feed(some_tokens(30, "another end"), (11, 1))
    assert conversation.restorable(50) == 37
    assert conversation.rewind(37)
    goes_on_as_a_fresh_one(conversation, name)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_goes_back_over_its_last_forward(name: str) -> None:
    """A token was forwarded ahead and is not wanted."""
    conversation = Conversation(pair(name)[0])
    conversation.feed(TOKENS[:37] + TOKENS[:1], (37, 1))
    assert conversation.rewind(37)
    assert difference(conversation.feed(TOKENS[37:], (1,)), expected(name)[37:]) < TOLERANCE


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_refuses_what_it_cannot_restore_and_is_unchanged(name: str) -> None:
    conversation = Conversation(pair(name)[0])
    conversation.feed(TOKENS[:60], (7,))
    assert conversation.restorable(50) == 0
    assert not any(storage.rewind(50) for storage in conversation.memory.recurrent.values())
    assert conversation.offset == 60
    assert difference(conversation.feed(TOKENS[60:], (1,)), expected(name)[60:]) < TOLERANCE
