"""The command line of scripts/bench.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmark import plots, reports
from benchmark.known import DEMO, NAMES
from benchmark.manual import DESCRIPTION, EPILOG
from benchmark.samples import Trouble

Sizes = tuple[int | None, int | None, int]
"""Prompt tokens, generated tokens, rounds; None where a mode has no such number."""

# Against a checkout rounds are short and many: what else happens on the machine shall happen to both. With clients
# they are the questions of each. With arrival the prompt is a row's, and the late prompt decides how long its
# answer gets. With a cache it is a new question.
USUAL: dict[str, Sizes] = {
    "beside": (256, 64, 5),
    "against": (128, 32, 96),
    "structured": (256, 64, 5),
    "growth": (None, 64, 3),
    "clients": (256, 64, 4),
    "arrival": (64, None, 4),
    "cache": (64, 64, 3),
}
SIZES = ("prompt", "generate", "rounds")
WITHOUT = {
    ("arrival", "generate"): "the rows decode until the prompt was read",
    ("growth", "prompt"): "the lengths of the prompts are the numbers that it is given",
}


def main() -> None:
    arguments = parse()
    try:
        if arguments.draw is not None:
            for path in plots.draw(reports.read_folder(arguments.draw), arguments.into):
                print(path)
        elif arguments.reference:
            from benchmark import reference

            reference.serve(arguments.model)
        elif arguments.reference_server:
            from benchmark import reference_server

            reference_server.serve(arguments.model, arguments.port)
        else:
            from benchmark import modes  # late: whoever draws needs no MLX

            report = modes.run(arguments)
            if arguments.save is not None:
                reports.save(report, arguments.save)
    except Trouble as error:
        sys.exit(f"bench: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    arguments = parser.parse_args()
    arguments.mode = mode_of(arguments)
    for name, number in zip(SIZES, USUAL[arguments.mode], strict=True):
        if number is None and getattr(arguments, name) is not None:
            why = WITHOUT[arguments.mode, name]
            parser.error(f"--{name} means nothing with --{arguments.mode}: {why}")
        if getattr(arguments, name) is None:
            setattr(arguments, name, number)
    lengths = (*(arguments.growth or ()), *(arguments.cache or ()))
    sizes = (arguments.prompt, arguments.generate, arguments.arrival, *lengths)
    if min(size for size in sizes if size is not None) < 2 or arguments.rounds < 1 or arguments.rows < 1:
        parser.error(
            "--prompt, --generate, --growth, --cache and --arrival need at least 2,"
            " --rounds and --rows at least 1"
        )
    if arguments.parallel is not None and not arguments.clients:
        parser.error("--parallel needs --clients")
    if arguments.save is not None and (why := reports.unfit(arguments.save)):
        parser.error(f"--save {arguments.save}: {why}")
    return arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    known = ", ".join(NAMES)
    add(
        "--model",
        metavar="MODEL",
        default=DEMO,
        help=f"{known} or a Hugging Face model directory (default: %(default)s)",
    )
    add("--prompt", metavar="N", type=int, help=f"prompt tokens {usual('prompt')}")
    add("--generate", metavar="N", type=int, help=f"generated tokens {usual('generate')}")
    add(
        "--rounds",
        metavar="R",
        type=int,
        help=f"rounds after a warm-up, or requests of a client {usual('rounds')}",
    )
    add("--without-mlx-lm", action="store_true", help="measure our own side only")
    add("--save", metavar="FILE", type=Path, help="write the report into this file, NAME.json, too")
    add_modes(parser)
    add("--parallel", metavar="N", type=int, help="handed to the runner, with --clients")
    add(
        "--rows",
        metavar="R",
        type=int,
        default=4,
        help="how many they are, with --arrival (default: %(default)s)",
    )
    add(
        "--into",
        metavar="FOLDER",
        type=Path,
        default=plots.FOLDER,
        help="where the plots go, with --draw (default: docs/plots)",
    )
    add("--reference", action="store_true", help=argparse.SUPPRESS)  # the mlx-lm process
    add("--reference-server", action="store_true", help=argparse.SUPPRESS)  # the mlx_lm.server process
    add("--port", type=int, help=argparse.SUPPRESS)


def add_modes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_mutually_exclusive_group().add_argument
    add("--against", metavar="DIR", type=Path, help="another checkout, with a .venv of its own")
    add("--structured", action="store_true", help="what an answer in JSON costs")
    add(
        "--growth", metavar="N,N,...", type=numbers, help="prompts of these lengths, and decoding behind them"
    )
    add("--clients", metavar="N,N,...", type=numbers, help="load of so many clients, one after the other")
    add("--arrival", metavar="N", type=int, help="a prompt of so many tokens comes while others decode")
    add("--cache", metavar="N,N,...", type=numbers, help="what is kept of chats of so many tokens")
    add("--draw", metavar="FOLDER", type=Path, help="measure nothing; plots of all reports in this folder")


def mode_of(arguments: argparse.Namespace) -> str:
    """The one that was asked for; beside mlx-lm if none was."""
    return next((mode for mode in USUAL if getattr(arguments, mode, None)), "beside")


def usual(size: str) -> str:
    """The defaults of a size, for its help."""
    place = SIZES.index(size)
    first, *others = [(mode, sizes[place]) for mode, sizes in USUAL.items() if sizes[place] is not None]
    shown = [f"with --{mode} {number}" for mode, number in others if number != first[1]]
    return f"(default: {', '.join([str(first[1]), *shown])})"


def numbers(text: str) -> list[int]:
    found = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if min(found) < 1 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different numbers from 1 on, as in 1,2,4")
    return found
