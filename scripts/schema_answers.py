#!/usr/bin/env python3
"""Answers of a model to schemas drawn by chance: does each hold to its schema? `--help` says how."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmark import models  # first: it opens the BLAS before anything imports mlx
from benchmark.inside import RunnerError
from benchmark.known import DEMO, SMOLLM2
from benchmark.samples import Trouble
from schemas.asking import Answer, Asked
from schemas.drawing import drawn
from schemas.judging import writes_a_key_twice, wrong_beginning, wrong_whole

from runner.loading.loader import load
from runner.store.resolve import open_model
from runner.types import NS_PER_S, SamplingOptions

DESCRIPTION = """\
Ask a model for JSON under many schemas, at several temperatures, and judge each answer.

An answer that came to its end must be JSON that the package jsonschema finds valid, formats included, with no
blanks around it and never more than a new line and 16 spaces inside. An answer that --num-predict cut must have
that many tokens, and a fresh matcher must accept its text. Every violation is printed whole.
"""
EPILOG = """\
examples, in a shell that did `scripts/install dev && . .venv/bin/activate`:
  scripts/schema_answers.py                                  the demo model, 300 schemas: minutes on a CPU
  scripts/schema_answers.py --schemas 20 --temperatures 1.5
  scripts/schema_answers.py --model smollm2 --schemas 10     a published model, fetched if need be
  scripts/schema_answers.py --model DIR --seed 7 --num-predict 400
  scripts/schema_answers.py | tail -1 | python -m json.tool  the figures alone

The last line is one JSON object. By temperature: finished, cut (at the limit), violations, twice (answers that
write a key of an object twice, which JSON allows), tokens, forced (of these, how many the grammar made certain and
nobody drew), tokens_per_s behind each answer's first token.

exit codes: 0 no violation, 1 a violation or a model that cannot be loaded, 2 usage
"""
SCHEMAS, TEMPERATURES, NUM_PREDICT = 300, (0.0, 0.7, 1.5), 200
EVERY_S = 10.0  # between two lines of progress


def main() -> int:
    arguments = parse()
    folder = models.folder_of(arguments.model)
    asked = Asked(load(open_model(str(folder)), lambda share: None))
    counts = {temperature: Counter[str]() for temperature in arguments.temperatures}
    started = told = time.monotonic()
    for number in range(arguments.schemas):
        schema = json.dumps(drawn(arguments.seed, number), ensure_ascii=False, separators=(",", ":"))
        for temperature, count in counts.items():
            count.update(
                judged(asked, schema, f"{arguments.seed}/{number}", temperature, arguments.num_predict)
            )
        if time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            print(f"{number + 1} of {arguments.schemas} schemas in {told - started:.0f} s", file=sys.stderr)
    report = {
        "model": arguments.model,
        "machine": models.machine(),
        "schemas": arguments.schemas,
        "seed": arguments.seed,
        "num_predict": arguments.num_predict,
        "seconds": round(time.monotonic() - started, 1),
        "temperatures": {str(temperature): figures(count) for temperature, count in counts.items()},
    }
    print_table(report)
    print(json.dumps(report))
    return int(any(count["violations"] for count in counts.values()))


def judged(asked: Asked, schema: str, name: str, temperature: float, limit: int) -> Counter[str]:
    """Ask once. name: of the schema, for the seed of the draws and for messages."""
    seed = random.Random(f"{name}/{temperature}").getrandbits(63)
    answer = asked.answer(schema, limit, SamplingOptions(temperature=temperature, seed=seed))
    wrong = list(violations(asked, schema, answer, limit))
    if wrong:
        print(f"schema {name} at temperature {temperature}: {'; '.join(wrong)}")
        print(f"  schema: {schema}\n  answer ({answer.reason}): {answer.text!r}\n  tokens: {answer.tokens}")
    finished = answer.reason == "stop"
    return Counter(
        finished=finished,
        cut=answer.reason == "length",
        violations=bool(wrong),
        twice=finished and not wrong and writes_a_key_twice(answer.text),
        tokens=len(answer.tokens),
        forced=answer.forced,
        timed=max(0, len(answer.tokens) - 1),
        ns=answer.generate_ns,
    )


def violations(asked: Asked, schema: str, answer: Answer, limit: int) -> Iterator[str]:
    if answer.reason == "failed":
        yield "it failed"
        return
    if len(answer.tokens) > limit:
        yield f"it has {len(answer.tokens)} tokens, and {limit} were asked for"
    if asked.spelled(answer.tokens) != answer.text:
        yield "its text is not that of its tokens"
    if answer.reason == "stop":
        yield from wrong_whole(schema, answer.text)
        return
    if len(answer.tokens) < limit:
        yield f"it ended at a limit after {len(answer.tokens)} tokens, and {limit} were asked for"
    yield from wrong_beginning(answer.text, lambda text: asked.may_begin(schema, text))


def figures(count: Counter[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: count[name] for name in ("finished", "cut", "violations", "twice", "tokens", "forced")
    }
    shown["tokens_per_s"] = round(count["timed"] * NS_PER_S / max(1, count["ns"]), 1)
    return shown


def print_table(report: dict[str, Any]) -> None:
    rows = report["temperatures"]
    columns = list(next(iter(rows.values())))
    print("temperature " + " ".join(f"{name:>12}" for name in columns))
    for temperature, row in rows.items():
        print(f"{temperature:11} " + " ".join(f"{row[name]:12}" for name in columns))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/schema_answers.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join((DEMO, *SMOLLM2))
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        default=DEMO,
        help=f"{known} or a Hugging Face model directory (default: %(default)s)",
    )
    add("--schemas", metavar="N", type=int, default=SCHEMAS, help="how many (default: %(default)s)")
    add(
        "--temperatures",
        metavar="T",
        type=float,
        nargs="+",
        default=list(TEMPERATURES),
        help=f"(default: {' '.join(map(str, TEMPERATURES))})",
    )
    add(
        "--num-predict",
        metavar="N",
        type=int,
        default=NUM_PREDICT,
        help="tokens of an answer at most (default: %(default)s)",
    )
    add("--seed", metavar="S", type=int, default=0, help="of schemas and of draws (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.schemas < 1 or arguments.num_predict < 1:
        parser.error("--schemas and --num-predict need at least 1")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Trouble, RunnerError) as error:
        sys.exit(f"schema_answers: {error}")
