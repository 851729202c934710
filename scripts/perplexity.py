#!/usr/bin/env python3
"""What quantizing costs the demo model: each kind imported, loaded by name, and measured beside the floats.

    scripts/perplexity.py             the table of README.md
    scripts/perplexity.py --packed    and the same with packed weights, which must agree (minutes on a CPU)

Perplexity is that of `scripts/train_demo.py --evaluate`, over the same held-out documents, per token; answers are
greedy, to questions in the demo's chat template.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark import inside  # first: it opens the BLAS before anything imports mlx
from benchmark.inside import DEMO_FOLDER, KINDS, LoadedModel
from demo_corpus import chat
from demo_train import evaluate
from tokenizers import Tokenizer

ANSWER_LIMIT = 60
QUESTIONS = {  # and what the floats answer
    "What is 7 plus 5?": "7 plus 5 is 12.",
    "What is 23 plus 19?": "23 plus 19 is 42.",
    "48 + 37 =": "48 + 37 = 85",
    "Mia has 12 apples and gives away 5. How many apples are left?": "12 - 5 = 7. Mia has 7 apples left.",
    "Count down from 10.": "10, 9, 8, 7, 6, 5, 4, 3, 2, 1",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    'Spell "lantern".': "l-a-n-t-e-r-n",
    "Show me a cat emoji.": "🐱",
    "Tom is 9 years old and lives in Rome. Write this as JSON.": '{"name": "Tom", "age": 9, "city": "Rome"}',
    "How do you say thank you in Japanese?": '"thank you" in Japanese is ありがとう.',
}


@dataclass(frozen=True)
class Stored:
    """The demo in a store, as one kind."""

    root: Path
    name: str
    megabytes: float
    bits: float
    """For each of the model's numbers, scales and all."""

    def load(self, *, packed: bool = False) -> LoadedModel:
        return inside.loaded(self.name, self.root, packed=packed)


def store_demo(root: Path, kind: str | None) -> Stored:
    """Import it; None: as it is."""
    name, size, parameters = inside.import_demo(root, kind)
    return Stored(root, name, size / 1e6, 8 * size / parameters)


def perplexity(loaded: LoadedModel, documents: int = evaluate.HELD_OUT_DOCUMENTS) -> float:
    """Over the first held-out documents."""
    tokenizer = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))
    return evaluate.perplexity(inside.forward(loaded), tokenizer, documents).value


def answer(loaded: LoadedModel, question: str) -> str:
    """What it says, by the runner's own engine."""
    return inside.answer(loaded, chat.prompt(question), ANSWER_LIMIT)


def rows(root: Path, packed: bool) -> Iterator[str]:
    """The table in Markdown; below it what is answered otherwise."""
    columns = [
        "",
        "weights",
        "bits a number",
        "perplexity",
        *(["packed"] if packed else []),
        "answers as before",
    ]
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    changed = []
    for kind in (None, *KINDS):
        stored = store_demo(root, kind)
        loaded = stored.load()
        wrong = {q: said for q, right in QUESTIONS.items() if (said := answer(loaded, q)) != right}
        cells = [kind or "as it is, bfloat16", f"{stored.megabytes:.1f} MB", f"{stored.bits:.1f}"]
        cells.append(f"{perplexity(loaded):.4f}")
        if packed:
            cells.append(f"{perplexity(stored.load(packed=True)):.4f}")
        cells.append(f"{len(QUESTIONS) - len(wrong)} of {len(QUESTIONS)}")
        yield f"| {' | '.join(cells)} |"
        changed += [f"{kind}: {question} {said!r}" for question, said in wrong.items()]
    yield from changed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/perplexity.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--packed", action="store_true", help="measure with packed weights too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(Path(folder), arguments.packed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
