#!/usr/bin/env python3
"""The official test suite of JSON Schema, each instance spelled to the grammar that its schema becomes.

Knows nothing about models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from published.wheel import CannotFetch, WrongFile
from schemas.suite import DRAFTS, cases
from schemas.verdicts import NARROWER, WIDER, judged

EPILOG = """\
For each draft: how many instances agree with "valid", how many stand under a schema that is refused, and how many
differ, by the reason. The last line is the same as JSON. The suite comes in the source of the package jsonschema,
which is fetched with pip and kept in $XDG_CACHE_HOME/mlx-runner (default ~/.cache/mlx-runner).

exit codes: 0 nothing is unexplained, 1 something is, 2 usage, 3 the suite cannot be fetched
"""
CANNOT_FETCH = 3


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/schema_suite.py",
        description="Run the official test suite of JSON Schema through the grammars of its schemas.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("drafts", nargs="*", metavar="DRAFT", default=DRAFTS, help=f"of {', '.join(DRAFTS)}")
    parser.add_argument(
        "--why", action="store_true", help="show each schema that is refused, with the reason"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.drafts) - set(DRAFTS):
        parser.error(f"no such draft: {', '.join(sorted(unknown))}")
    try:
        counts = {draft: counted(draft, arguments.why) for draft in arguments.drafts}
    except (CannotFetch, WrongFile) as error:
        print(error, file=sys.stderr)
        return CANNOT_FETCH
    for draft, count in counts.items():
        print(f"{draft:13}" + ", ".join(f"{number} {verdict}" for verdict, number in count.most_common()))
    print(json.dumps(counts))
    return any(count[WIDER] + count[NARROWER] for count in counts.values())


def counted(draft: str, why: bool) -> Counter[str]:
    def say(line: str) -> None:
        if why or not line.startswith("refused"):
            print(line)

    return sum((judged(case, say) for case in cases(draft)), Counter[str]())


if __name__ == "__main__":
    sys.exit(main())
