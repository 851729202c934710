#!/usr/bin/env python3
"""Many clients ask one runner for a long time, and some of them misbehave. `--help` says how."""

from __future__ import annotations

import argparse
import json
import secrets
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
from benchmark.known import DEMO
from benchmark.samples import Trouble
from reliability import picture, watching
from reliability.clients import Clients, Share
from reliability.kinds import golden
from reliability.process import Gone, Hangs, Process, spawned
from reliability.replies import Wrong

DESCRIPTION = """\
Ask one runner with many clients at once for a long time. Some leave: before their body is whole, in the queue, in
mid-stream, with a reset. Some ask for a fault: a step fails as MLX would, in a prompt or an answer, for all who
take part in it. Some read slowly, some want JSON. Whoever stays must get exactly one end.

Meanwhile the process is watched: memory, open files, threads, and how long /health takes. At the end, when
everybody has left and the cache was emptied, it must hold what it held at first and say to a fixed question what it
said.
"""
EPILOG = """\
examples, in a shell that did `scripts/install dev && . .venv/bin/activate`:
  scripts/soak.py --minutes 2                            64 clients, 4 slots, the demo model
  scripts/soak.py --minutes 30 --save FILE.json --draw FILE.svg    the long form
  scripts/soak.py --minutes 1 --clients 8 --parallel 1 --seed 7

The last line is one JSON object.

exit codes: 0 all well, 1 something was lost, hung or grew, or the runner does not start, 2 usage
"""
FAULTS = Path(__file__).parent / "reliability" / "injecting"
WARM_UP_S = 10.0
SAMPLE_S = 5.0
TOLD_EVERY_S = 30.0
MOST_GROWTH = 50 * 1024  # bytes of the process for each request
LEEWAY = 1 << 20  # bytes of MLX's that may be more at the end than at the beginning


def main() -> int:
    if sys.argv[1:2] == ["--ping"]:
        watching.ping_on(int(sys.argv[2]), Path(sys.argv[3]))
    arguments = parse()
    print(f"seed {arguments.seed}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            report = run(arguments, Path(folder))
        if arguments.save is not None:
            reports.save(report, arguments.save)
        if arguments.draw is not None:
            picture.draw(report, arguments.draw)
    except (Trouble, Gone, Hangs, Wrong) as error:
        sys.exit(f"soak: {error}")
    print(json.dumps({name: value for name, value in report.items() if name != "samples"}))
    return int(bool(report["wrong"]))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = str(models.folder_of(arguments.model))
    slots = ("--parallel", str(arguments.parallel))
    rest_s = min(watching.REST_S, 60 * arguments.minutes)
    with spawned(model, folder / "log", slots, {"PYTHONPATH": str(FAULTS)}) as process:
        _warm_up(process, arguments)
        first_text = golden(process)
        began = time.monotonic()
        first = watching.at_rest(process, 0, began, rest_s)
        clients = Clients(
            process.port, arguments.clients, arguments.seed, Share(arguments.leave, arguments.errors)
        )
        times = folder / "pings"
        with watching.pinging(process.port, times):
            samples = _soaked(process, clients, began, 60 * arguments.minutes)
        last = watching.at_rest(process, clients.requests, began, rest_s)
        last_text = golden(process)
        code = process.stop()
    report = {
        "date": date.today().isoformat(),
        "machine": models.machine(),
        "model": arguments.model,
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "clients": arguments.clients,
        "parallel": arguments.parallel,
        "leave": arguments.leave,
        "errors": arguments.errors,
        "requests": clients.requests,
        "outcomes": dict(sorted(clients.outcomes.items())),
        "troubles": clients.troubles[:20],
        "health": watching.pings(times),
        "first": asdict(first),
        "last": asdict(last),
        "growth": watching.growth(samples),
        "same_answer": first_text == last_text,
        "exit_code": code,
        "samples": watching.as_records([first, *samples, last]),
    }
    return report | {"wrong": wrong(report)}


def _warm_up(process: Process, arguments: argparse.Namespace) -> None:
    """Some seconds of the same load: threads and buffers that stay are no growth."""
    share = Share(arguments.leave, arguments.errors)
    clients = Clients(process.port, arguments.clients, f"{arguments.seed}/warm", share)
    clients.start()
    time.sleep(min(WARM_UP_S, 60 * arguments.minutes))
    clients.stop()


def _soaked(process: Process, clients: Clients, began: float, seconds: float) -> list[watching.Sample]:
    clients.start()
    started = told = time.monotonic()
    samples = []
    try:
        while time.monotonic() < started + seconds and not process.has_ended:
            time.sleep(min(SAMPLE_S, seconds))
            samples.append(watching.sample(process, began, clients.requests))
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                print(_told(samples[-1], clients), file=sys.stderr, flush=True)
    finally:
        clients.stop()
    return samples


def _told(now: watching.Sample, clients: Clients) -> str:
    return (
        f"{now.minute:.1f} min, {now.requests} requests, {now.resident_bytes / 1e6:.0f} MB, "
        f"{now.files} files, {now.threads} threads, "
        f"lost {clients.outcomes['lost']}, hung {clients.outcomes['hung']}"
    )


def wrong(report: dict[str, Any]) -> list[str]:
    """What must not be, in words."""
    first, last, outcomes = report["first"], report["last"], report["outcomes"]
    found = {
        "final records were lost": outcomes.get("lost", 0),
        "clients hung": outcomes.get("hung", 0),
        "the answer is another one": not report["same_answer"],
        "files stayed open": last["files"] > first["files"],
        "threads stayed": last["threads"] > first["threads"],
        "MLX holds more": last["held_bytes"] > first["held_bytes"] + LEEWAY,
        "the process grows": report["growth"].get("resident_bytes_per_request", 0) > MOST_GROWTH,
        "it did not end as it should": report["exit_code"],
    }
    return [what for what, is_so in found.items() if is_so]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=DEMO, help="a name or a Hugging Face model directory (default: %(default)s)")
    add("--minutes", metavar="M", type=float, default=2.0, help="(default: %(default)s)")
    add("--clients", metavar="N", type=int, default=64, help="(default: %(default)s)")
    add("--parallel", metavar="N", type=int, default=4, help="slots of the runner (default: %(default)s)")
    add("--leave", metavar="SHARE", type=float, default=0.4, help="of requests (default: %(default)s)")
    add("--errors", metavar="SHARE", type=float, default=0.1, help="of requests (default: %(default)s)")
    add("--seed", help="of all that clients do (default: another one each time)")
    add("--save", metavar="FILE", type=Path, help="write the report into this file, NAME.json, too")
    add("--draw", metavar="FILE", type=Path, help="draw memory over time into this file, NAME.svg")
    arguments = parser.parse_args()
    arguments.seed = arguments.seed or str(secrets.randbelow(10**9))
    if min(arguments.clients, arguments.parallel) < 1 or arguments.minutes <= 0:
        parser.error("--clients and --parallel need at least 1, --minutes more than 0")
    if not (0 <= arguments.leave <= 1 and 0 <= arguments.errors <= 1):
        parser.error("--leave and --errors are shares, 0 to 1")
    if arguments.save is not None and (why := reports.unfit(arguments.save)):
        parser.error(f"--save {arguments.save}: {why}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
