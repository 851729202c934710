"""The card of the demo model: README.md for people, training.json with the same numbers for the tests.

Knows nothing about training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo_train.vocabulary import CHAT_TEMPLATE, GO_TEMPLATE

CARD = """\
# The demo model of mlx-runner

A Llama of {millions:.2f} million parameters that runs when no `--model` is given. It is small enough to ship and
trained well enough to talk to: it tells short stories, answers simple questions, does small sums, counts, spells,
writes small JSON records, and stops when it is done. It knows nothing else; it is no source of facts.

{table}

A document is held out by a hash of its own text, so no held-out document was trained on. Much of the corpus is
chosen at random (which animal, which number), and no model can guess that: most of the loss left is that choice.

## What it gets right

Greedy decoding, questions whose one-turn chat is held out. "Ended": it stopped by itself.

| skill | right | ended | asked |
|---|---|---|---|
{skills}

"Sums of unseen pairs" are two-digit sums whose pair of numbers appears nowhere in the training text, in any
wording.

## Format

`<|begin|>` begins every text; `<|end|>` ends every turn and every text and is the only end token. A plain story
needs nothing but its first words. A chat is written so (one line, no spaces between):

```
<|begin|><|system|>You are a helpful assistant.<|end|><|user|>Hello!<|end|><|assistant|>
```

The Jinja template in tokenizer_config.json:

```
{jinja}
```

The same for a Modelfile, without the first token, which the runner adds itself:

```
TEMPLATE \"\"\"{go}\"\"\"
PARAMETER stop <|end|>
```

## What it says

Real answers, greedy decoding.

{samples}

## Made by

```
{command}
```

It can be made again: same seed, same text, the same skills; the numbers differ a little from one GPU to another.
"""


def _quote(text: str) -> str:
    return "\n".join(f"> {line}" if line else ">" for line in text.split("\n"))


def _table(config: dict[str, Any], facts: dict[str, Any]) -> str:
    held_out = facts["held_out"]
    rows = {
        "architecture": f"`LlamaForCausalLM`: {config['num_hidden_layers']} layers, hidden size "
        f"{config['hidden_size']}, {config['num_attention_heads']} heads of {config['head_dim']}, "
        f"{config['num_key_value_heads']} key/value heads, MLP {config['intermediate_size']}, tied embeddings",
        "parameters": f"{facts['parameters']:,} in bfloat16",
        "vocabulary": f"{config['vocab_size']:,} byte-level BPE entries, every digit a token of its own",
        "context": f"{config['max_position_embeddings']:,} tokens",
        "data": "text made by `scripts/demo_corpus` and written for this project: nothing was downloaded, "
        "nobody else's text is in it",
        "training": f"{facts['steps']:,} steps of {facts['tokens_per_step']:,} tokens "
        f"({facts['steps'] * facts['tokens_per_step'] / 1e6:.0f} million), seed {facts['seed']}, "
        f"{facts['seconds'] / 60:.1f} minutes on {facts['device']}",
        "schedule": f"AdamW, peak learning rate {facts['learning_rate']}, warm-up and cosine; rows of "
        f"{facts['length']} tokens, in {100 * facts['long_share']:.0f} % of the steps "
        f"(every second block towards the end) of {facts['long_length']}",
        "loss at the end": f"{facts['loss']:.4f} per token (natural logarithm, mean of the last 100 steps)",
        "held-out perplexity": f"{held_out['perplexity']:.4f} per token over {held_out['documents']} documents "
        f"({held_out['tokens']:,} tokens) that the training never saw",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """README.md and training.json in the model's folder."""
    config = json.loads((folder / "config.json").read_text())
    skills = (
        f"| {name} | {100 * one['right']:.1f} % | {100 * one['ended']:.1f} % | {one['asked']} |"
        for name, one in facts["skills"].items()
    )
    text = CARD.format(
        millions=facts["parameters"] / 1e6,
        table=_table(config, facts),
        skills="\n".join(skills),
        samples="\n\n".join(f"**{question}**\n\n{_quote(answer)}" for question, answer in facts["samples"]),
        command=facts["command"],
        jinja=CHAT_TEMPLATE,
        go=GO_TEMPLATE,
    )
    (folder / "README.md").write_text(text)
    kept = {key: value for key, value in facts.items() if key != "samples"}
    (folder / "training.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
