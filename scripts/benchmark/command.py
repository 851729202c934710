"""The command line of scripts/bench.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmark import (
    against,
    arrival,
    beside,
    inside,
    load,
    load_report,
    models,
    plots,
    reference,
    reference_server,
    structured,
)
from benchmark.samples import Trouble

DESCRIPTION = """\
Start-up time and token rates, the last line of the output as one JSON object.

Without --against four things are measured in turn, in every round:

    spawn      a fresh `mlx-runner` process until the first 200 on /health
    pipeline   the worker in this process, no HTTP
    http       the same prompt sent to a runner that was spawned before
    mlx-lm     the same prompt, in a process of its own: same weights, dtype and BLAS

With --against DIR, the runners of two checkouts, this one and DIR, each installed in its own .venv: the same
prompts to both in turn, and the quotients of their speeds. With --structured the pipeline with a grammar and
without one, in turn. With --draw FILE nothing is measured: what was printed before becomes a picture.

With --clients 1,2,4 load over HTTP: so many clients at once, each with a connection of its own and one request
after the other, on a fresh runner and on a fresh mlx_lm.server, which comes first for every other number. Prompts
are of three lengths, --prompt and a fourth and a sixteenth of it; one request of eight is left half-way, at both
servers alike. Measured at the client, with prefill:

    tok/s         tokens of all clients over the time in which none was done with its last request (busy), or until
                  the last token of all (whole). The runner's records count tokens. An event of mlx_lm.server with
                  text is one, and its last event counts them all
    first token   from sending a request to the first record of its answer
    gap           between two records of an answer that brought tokens
    differ        answers under load that are not, to the letter, what the same server says to a client alone

With --arrival N a prompt of N tokens comes to a runner while --rows clients read long answers, and in turn to the
same runner while it is idle: what the pauses and the speed of the others are before it comes and until its first
token, and when that token comes.

Decoding is greedy and end-of-sequence tokens are banned, so every request generates as many tokens as asked for,
and the texts must be equal. Each prompt begins differently, so no prefix cache helps. Prefill speed is prompt
tokens over the time to the first token; decode speed is the tokens after the first over the time that they took.
"""

EPILOG = """\
examples, in a shell that did `scripts/install dev && . .venv/bin/activate`:
  scripts/bench.py                                       the demo model: 256 tokens in, 64 out, 5 rounds
  scripts/bench.py --model smollm2                       a published model of 135 M parameters, fetched if need be
  scripts/bench.py --model DIR --prompt 1024 --generate 128 --rounds 3
  scripts/bench.py | tail -1 | python -m json.tool       the figures alone
  scripts/bench.py --against ../before                   is this checkout as fast as that one?
  scripts/bench.py --against .                           how much the same code differs from itself
  scripts/bench.py --structured --rounds 40              what structured output costs
  scripts/bench.py --clients 1,2,4,8 --parallel 8        many at once, beside mlx_lm.server
  scripts/bench.py --arrival 4096 --rows 4               a long prompt comes while four answers are under way
  scripts/bench.py --draw speed.svg one.json two.json    a picture of saved reports
  OPENBLAS_NUM_THREADS=1 scripts/bench.py --against ../before --rounds 320      closer: five minutes on a CPU

On a shared machine trust the ratios, which are medians of quotients within a round, and not the absolute speeds.
smollm2-dense is smollm2 as floats: mlx-lm multiplies by packed matrices as they are, and the runner, on a CPU, by
floats. mlx-lm comes with `pip install -e '.[dev]'`; --without-mlx-lm leaves it out. Write what you learn, and what
you lose, into scripts/BENCH.md.
"""

# Prompt tokens, generated tokens, rounds. Against a checkout rounds are short and many: what else happens on the
# machine shall happen to both.
BESIDE = (256, 64, 5)
AGAINST = (128, 32, 96)
CLIENTS = (256, 64, 4)  # rounds are the questions of each client
ARRIVAL = (64, None, 4)  # the prompt is a row's; how long its answer gets, the late prompt decides


def main() -> None:
    arguments = parse()
    if arguments.reference:
        reference.serve(arguments.model)
        return
    if arguments.reference_server:
        reference_server.serve(arguments.model, arguments.port)
        return
    size = (arguments.prompt, arguments.generate, arguments.rounds)
    try:
        if arguments.draw is not None:
            plots.draw(arguments.reports, arguments.draw)
            return
        if arguments.against is not None:
            report = against.measure(arguments.model, arguments.against, *size)
            table = against.print_table
        elif arguments.clients is not None:
            report = load.measure(
                arguments.model,
                *size,
                clients=arguments.clients,
                parallel=arguments.parallel,
                with_mlx_lm=not arguments.without_mlx_lm,
            )
            table = load_report.print_table
        elif arguments.arrival is not None:
            report = arrival.measure(
                arguments.model,
                arguments.prompt,
                arguments.rounds,
                arrival=arguments.arrival,
                rows=arguments.rows,
            )
            table = arrival.print_table
        elif arguments.structured:
            report = structured.measure(arguments.model, *size)
            table = structured.print_table
        else:
            with_mlx_lm = not arguments.without_mlx_lm
            report = beside.measure(arguments.model, *size, with_mlx_lm=with_mlx_lm)
            table = beside.print_table
    except (Trouble, inside.RunnerError) as error:
        sys.exit(f"bench: {error}")
    print_head(report)
    table(report)
    print()
    print(json.dumps(report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join((models.DEMO, *models.SMOLLM2))
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        default=models.DEMO,
        help=f"{known} or a Hugging Face model directory (default: %(default)s)",
    )
    usual = "(default: {0}, with --against {1}, with --clients {2}, with --arrival {3})"
    limits = [size or "no limit" for size in ARRIVAL]
    shown = [usual.format(*each) for each in zip(BESIDE, AGAINST, CLIENTS, limits, strict=True)]
    add("--prompt", metavar="N", type=int, help=f"prompt tokens {shown[0]}")
    add("--generate", metavar="N", type=int, help=f"generated tokens {shown[1]}")
    add("--rounds", metavar="R", type=int, help=f"rounds after a warm-up, or requests of a client {shown[2]}")
    add("--without-mlx-lm", action="store_true", help="measure our own side only")
    other = parser.add_mutually_exclusive_group().add_argument
    other("--against", metavar="DIR", type=Path, help="another checkout, with a .venv of its own")
    other("--structured", action="store_true", help="what an answer in JSON costs")
    other(
        "--clients",
        metavar="N,N,...",
        type=client_numbers,
        help="load of so many clients, one after the other",
    )
    other("--arrival", metavar="N", type=int, help="a prompt of so many tokens comes while others decode")
    other("--draw", metavar="FILE", type=Path, help="draw the REPORTs into this file, .svg or .png")
    add("--parallel", metavar="N", type=int, help="handed to the runner, with --clients")
    add(
        "--rows",
        metavar="R",
        type=int,
        default=4,
        help="how many they are, with --arrival (default: %(default)s)",
    )
    add("reports", metavar="REPORT", nargs="*", type=Path, help="what this command printed, with --draw")
    add("--reference", action="store_true", help=argparse.SUPPRESS)  # the mlx-lm process
    add("--reference-server", action="store_true", help=argparse.SUPPRESS)  # the mlx_lm.server process
    add("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arrival is not None and arguments.generate is not None:
        parser.error("--generate means nothing with --arrival: the rows decode until the prompt was read")
    for name, number in zip(("prompt", "generate", "rounds"), usual_sizes(arguments), strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, number)
    if bool(arguments.reports) != (arguments.draw is not None):
        parser.error("--draw needs at least one REPORT, and a REPORT needs --draw")
    sizes = (arguments.prompt, arguments.generate, arguments.arrival)
    if min(size for size in sizes if size is not None) < 2 or arguments.rounds < 1 or arguments.rows < 1:
        parser.error("--prompt, --generate and --arrival need at least 2, --rounds and --rows at least 1")
    if arguments.parallel is not None and not arguments.clients:
        parser.error("--parallel needs --clients")
    return arguments


def usual_sizes(arguments: argparse.Namespace) -> tuple[int, int | None, int]:
    """Prompt tokens, generated tokens, rounds."""
    if arguments.arrival is not None:
        return ARRIVAL
    return AGAINST if arguments.against is not None else CLIENTS if arguments.clients else BESIDE


def client_numbers(text: str) -> list[int]:
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different numbers from 1 on, as in 1,2,4")
    return numbers


def print_head(report: dict[str, Any]) -> None:
    where = report["machine"]
    if "clients" in report:
        what = load_report.described(report)
    else:
        what = arrival.described(report) if "arrival_tokens" in report else rounds_of(report)
    print(
        f"{where['cpu']}, {where['cores']} cores, {where['system']}; MLX {where['mlx']} on {where['device']}\n"
        f"{report['model']}: {what}\n"
    )


def rounds_of(report: dict[str, Any]) -> str:
    return (
        f"{report['prompt_tokens']} tokens in, {report['generated_tokens']} out,"
        f" medians of {report['rounds']} rounds"
    )
