#!/usr/bin/env python3
"""Inputs drawn by chance, as strange as they come, to a runner process. `--help` says how."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path

# The runner is this checkout's, also where nothing could be installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmark import models, reports
from benchmark.samples import Trouble
from reliability import model
from reliability.fuzzing import KINDS, Tally, Trial, shares

DESCRIPTION = """\
Give a runner process inputs that were changed by chance: bodies of requests, raw HTTP, grammars, files of models
(config.json, tokenizer.json, headers of safetensors, manifests, entries of the cache), which it is told to load.

Whatever comes, it must answer within 10 seconds: a well-formed stream, or one plain line with a fitting status that
tells no path and no traceback. It must not end, hang or log an exception, and in between it must say to a fixed
question what it said at first.
"""
EPILOG = """\
examples, in a shell that did `scripts/install dev && . .venv/bin/activate`:
  scripts/fuzz.py                                   10,000 inputs of all kinds, of a seed that it prints
  scripts/fuzz.py --count 100000 --save FILE.json   the long form: an hour on a CPU
  scripts/fuzz.py --kinds config,tokenizer --seed 7 --count 500
  scripts/fuzz.py --kinds config --seed 7 --only 123      one input again, by its number
  scripts/fuzz.py --keep FOLDER                     inputs that were found to be trouble, as files

The last line is one JSON object.

exit codes: 0 nothing found, 1 something was found or a runner does not start, 2 usage
"""
COUNT = 10_000
DEEPEST = 10_000  # calls in one another: values that are nested 1,000 deep become JSON


def main() -> int:
    arguments = parse()
    sys.setrecursionlimit(DEEPEST)
    chosen = [kind for kind in KINDS if kind.name in arguments.kinds]
    print(f"seed {arguments.seed}", file=sys.stderr)
    tallies: dict[str, Tally] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            first = model.write(Path(folder) / "model")
            for kind, count in shares(arguments.count, chosen).items():
                numbers = (
                    range(count) if arguments.only is None else range(arguments.only, arguments.only + 1)
                )
                own = Path(folder) / f"of-{kind.name}"
                own.mkdir()
                trial = Trial(kind(own, first), arguments.seed, arguments.keep)
                tallies[kind.name] = trial.run(numbers)
        report = {
            "date": date.today().isoformat(),
            "machine": models.machine(),
            "seed": arguments.seed,
            "count": sum(tally.inputs for tally in tallies.values()),
            "kinds": {name: asdict(tally) for name, tally in tallies.items()},
        }
        if arguments.save is not None:
            reports.save(report, arguments.save)
    except Trouble as error:
        sys.exit(f"fuzz: {error}")
    print(json.dumps(report))
    return int(not all(tally.is_clean for tally in tallies.values()))


def parse() -> argparse.Namespace:
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--count", metavar="N", type=int, default=COUNT, help="inputs in all (default: %(default)s)")
    add("--seed", default=None, help="of all inputs (default: another one each time)")
    add("--kinds", metavar="KIND,...", default=",".join(names), help="some of %(default)s")
    add("--only", metavar="NUMBER", type=int, help="this input of each kind and no other")
    add("--keep", metavar="FOLDER", type=Path, help="write inputs there that were trouble")
    add("--save", metavar="FILE", type=Path, help="write the report into this file, NAME.json, too")
    arguments = parser.parse_args()
    arguments.kinds = arguments.kinds.split(",")
    arguments.seed = arguments.seed or str(secrets.randbelow(10**9))
    if unknown := set(arguments.kinds) - set(names):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    if arguments.count < 1:
        parser.error("--count needs at least 1")
    if arguments.save is not None and (why := reports.unfit(arguments.save)):
        parser.error(f"--save {arguments.save}: {why}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
