"""The tokenizer of the demo model: byte-level BPE whose digits are always single tokens.

Single digits make a sum a matter of columns, not of remembering four thousand number tokens.
Knows nothing about the model.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from demo_corpus import documents
from demo_corpus.chat import ASSISTANT, BEGIN, END, PAD, SYSTEM, USER
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = (PAD, BEGIN, END, SYSTEM, USER, ASSISTANT)
PAD_ID, BEGIN_ID, END_ID = 0, 1, 2
SIZE = 4096

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Roles are system, user and assistant. One token ends every turn and every document, so one EOS is enough."""

GO_TEMPLATE = "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
"""The same for an Ollama Modelfile; without the first token, which the runner adds itself."""


def train_tokenizer(seed: int, count: int = 30_000) -> Tokenizer:
    """A tokenizer for the corpus, from its first documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for text in itertools.islice(documents("train", seed), count))
    tokenizer.train_from_iterator(_without_specials(texts), trainer)
    return tokenizer


def _without_specials(texts: Any) -> Any:
    # The special tokens are atoms: no merge may be learned from their letters.
    for text in texts:
        for token in SPECIALS:
            text = text.replace(token, "\x00")
        yield from (piece for piece in text.split("\x00") if piece)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """tokenizer.json and tokenizer_config.json, as Hugging Face libraries read them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": token, **flags} for i, token in enumerate(SPECIALS)},
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
