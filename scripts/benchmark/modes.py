"""The modes of bench.py: how each one measures, and how people read its report.

Only whoever measures imports this: it brings the runner and MLX.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmark import against, arrival, beside, cache, growth, inside, load, load_report, structured
from benchmark.samples import Trouble

Report = dict[str, Any]


@dataclass(frozen=True)
class Mode:
    """described: what was run, in a line. print_table: for people, below the head."""

    measure: Callable[[argparse.Namespace], Report]
    described: Callable[[Report], str]
    print_table: Callable[[Report], None]


def run(arguments: argparse.Namespace) -> Report:
    """Measure and print; the last line of the output is the report. Raises Trouble."""
    mode = MODES[arguments.mode]
    busy = os.getloadavg()[0]
    try:
        report = {"mode": arguments.mode, "load_before": round(busy, 1)} | mode.measure(arguments)
    except inside.RunnerError as error:
        raise Trouble(str(error)) from None
    where = report["machine"]
    print(
        f"{where['cpu']}, {where['cores']} cores, {where['system']}; MLX {where['mlx']} on {where['device']}\n"
        f"{report['model']}: {mode.described(report)}\n"
    )
    mode.print_table(report)
    print()
    print(json.dumps(report))
    return report


def _sizes(arguments: argparse.Namespace) -> tuple[int, int, int]:
    return arguments.prompt, arguments.generate, arguments.rounds


def _beside(arguments: argparse.Namespace) -> Report:
    return beside.measure(arguments.model, *_sizes(arguments), with_mlx_lm=not arguments.without_mlx_lm)


def _against(arguments: argparse.Namespace) -> Report:
    return against.measure(arguments.model, arguments.against, *_sizes(arguments))


def _clients(arguments: argparse.Namespace) -> Report:
    return load.measure(
        arguments.model,
        *_sizes(arguments),
        clients=arguments.clients,
        parallel=arguments.parallel,
        with_mlx_lm=not arguments.without_mlx_lm,
    )


def _growth(arguments: argparse.Namespace) -> Report:
    return growth.measure(
        arguments.model,
        sorted(arguments.growth),
        arguments.generate,
        arguments.rounds,
        with_mlx_lm=not arguments.without_mlx_lm,
    )


def _arrival(arguments: argparse.Namespace) -> Report:
    return arrival.measure(
        arguments.model,
        arguments.prompt,
        arguments.rounds,
        arrival=arguments.arrival,
        rows=arguments.rows,
    )


def _cache(arguments: argparse.Namespace) -> Report:
    return cache.measure(
        arguments.model,
        sorted(arguments.cache),
        *_sizes(arguments),
        with_mlx_lm=not arguments.without_mlx_lm,
    )


def _structured(arguments: argparse.Namespace) -> Report:
    return structured.measure(arguments.model, *_sizes(arguments))


def _rounds(report: Report) -> str:
    return (
        f"{report['prompt_tokens']} tokens in, {report['generated_tokens']} out,"
        f" medians of {report['rounds']} rounds"
    )


MODES = {
    "beside": Mode(_beside, _rounds, beside.print_table),
    "against": Mode(_against, _rounds, against.print_table),
    "growth": Mode(_growth, growth.described, growth.print_table),
    "clients": Mode(_clients, load_report.described, load_report.print_table),
    "arrival": Mode(_arrival, arrival.described, arrival.print_table),
    "cache": Mode(_cache, cache.described, cache.print_table),
    "structured": Mode(_structured, _rounds, structured.print_table),
}
