#!/usr/bin/env python3
"""One client chats for a long time, and the runner's memory stays what it was. `--help` says how."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

# The runner is this checkout's, also where nothing could be installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmark import models, reports
from benchmark.known import DEMO, NAMES
from benchmark.samples import Trouble
from reliability import picture, watching
from reliability.growing_chat import Chats, flatness
from reliability.process import Gone, Hangs, spawned
from reliability.replies import Wrong

DESCRIPTION = """\
One client asks one runner, one request after the other. Of ten requests six are the next turn of its chat, two the
last turn once more, two the last turn with another question. When the chat nears the context, another one begins,
which has another number at its beginning and is as long. So the first chat takes memory until its end, and what the
last ones take at most must be what the ones at first did.
"""
EPILOG = """\
examples, in a shell that did `scripts/install dev && . .venv/bin/activate`:
  scripts/chat_soak.py                                          1800 requests, the demo model
  scripts/chat_soak.py --model random-gemma --save FILE.json --draw FILE.svg

The last line is one JSON object.

exit codes: 0 all well, 1 memory grew, a request failed, or the runner does not start, 2 usage
"""
MOST = 1.02  # of the chats at first, at the end
KEPT = 500  # samples of a report


def main() -> int:
    arguments = parse()
    try:
        with tempfile.TemporaryDirectory(prefix="chat-soak-") as folder:
            report = run(arguments, Path(folder))
        if arguments.save is not None:
            reports.save(report, arguments.save)
        if arguments.draw is not None:
            picture.draw(report, arguments.draw, over="requests")
    except (Trouble, Gone, Hangs, Wrong) as error:
        sys.exit(f"chat_soak: {error}")
    print(json.dumps({name: value for name, value in report.items() if name != "samples"}))
    return int(any(ratio > MOST for ratio in report["flatness"].values()))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    path = models.folder_of(arguments.model)
    limit = ("--context-length", str(arguments.context))
    with spawned(str(path), folder / "log", limit) as process:
        chats = Chats(process, path, arguments.context, arguments.seed)
        began = time.monotonic()
        samples = []
        for number in range(1, arguments.requests + 1):
            chats.ask()
            samples.append(watching.sample(process, began, number))
            if number % 100 == 0:
                print(f"{number} requests, {chats.number} chats", file=sys.stderr, flush=True)
        code = process.stop()
    every = -(-len(samples) // KEPT)
    return {
        "date": date.today().isoformat(),
        "machine": models.machine(),
        "model": arguments.model,
        "context": arguments.context,
        "seed": arguments.seed,
        "requests": arguments.requests,
        "asked": dict(chats.asked),
        "chats": chats.number,
        "peaks": chats.peaks(samples),
        "flatness": flatness(chats.peaks(samples)),
        "exit_code": code,
        "samples": [asdict(one) for one in samples[::every]],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chat_soak.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    known = ", ".join(NAMES)
    add(
        "--model",
        default=DEMO,
        help=f"{known} or a Hugging Face model directory (default: %(default)s)",
    )
    add("--requests", metavar="N", type=int, default=1800, help="(default: %(default)s)")
    add("--context", metavar="N", type=int, default=2048, help="tokens of a chat (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the words of all chats (default: %(default)s)")
    add("--save", metavar="FILE", type=Path, help="write the report into this file, NAME.json, too")
    add("--draw", metavar="FILE", type=Path, help="draw memory over requests into this file, NAME.svg")
    arguments = parser.parse_args()
    if arguments.requests < 1 or arguments.context < 512:
        parser.error("--requests needs at least 1, --context at least 512")
    if arguments.save is not None and (why := reports.unfit(arguments.save)):
        parser.error(f"--save {arguments.save}: {why}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
