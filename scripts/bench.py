#!/usr/bin/env python3
"""How long a start takes and how fast tokens come, beside mlx-lm in the same run. `--help` says how.

Four things are measured, in turn, in every round, so that a noisy machine is noisy for all of them:

    spawn      a fresh `mlx-runner` process until the first 200 on /health
    pipeline   runner.worker.Worker in this process, no HTTP
    http       the same prompt sent to a runner that was spawned before
    mlx-lm     the same prompt, in a process of its own, same weights and dtype, behind the same BLAS

Decoding is greedy and end-of-sequence tokens are banned, so every request generates as many tokens as asked
for, and the texts must be equal. Each prompt begins differently, so no prefix cache helps.

Prefill speed is prompt tokens over the time to the first token; decode speed is the tokens after the first
over the time that they took.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import queue
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from runner.errors import RunnerError
from runner.machine import device  # opens the BLAS before anything imports mlx
from runner.machine.blas import blas_is_slow
from runner.store.resolve import DEMO, DEMO_FOLDER
from runner.text.tokenizer import Tokenizer
from runner.types import NS_PER_S, Chunk, Done, Event, Failed, GenerateRequest, SamplingOptions
from runner.worker import Worker

BAN = -1e9  # added to an end-of-sequence token's logit
POLL_S = 0.005
START_LIMIT_S = 600.0
WORDS = """
the of and to in a is that it was for on are with as his they be at one have this from or had by hot but some what
there we can out other were all your when up use word how said an each she which do their time if will way about
"""

EPILOG = """\
examples:
  scripts/bench.py                                       the demo model: 256 tokens in, 64 out, 5 rounds
  scripts/bench.py --model DIR --prompt 1024 --generate 128 --rounds 3
  scripts/bench.py | tail -1 | python -m json.tool       the figures alone

The model is held in memory three times (pipeline, http, mlx-lm). On a shared machine trust the ratios, which are
medians of quotients within a round, and not the absolute speeds. mlx-lm comes with `pip install -e '.[dev]'`;
--without-mlx-lm leaves it out. Write what you learn, and what you lose, into scripts/BENCH.md.
"""


@dataclass(frozen=True)
class Prompt:
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Sample:
    """One request: speeds in tokens per second, and what came, to compare. tokens: place -> id, where known."""

    prefill: float
    decode: float
    first_s: float
    text: str
    tokens: dict[int, int]


Bias = tuple[tuple[int, float], ...]
Results = dict[str, Sample]
ORDER = ("pipeline", "http", "http client", "mlx-lm")


class Trouble(Exception):
    """Something that the person at the keyboard can mend; the message is one line."""


def main() -> None:
    arguments = _arguments()
    if arguments.reference:
        serve_reference(arguments.model)
        return
    try:
        report = measure(arguments)
    except (Trouble, RunnerError) as error:
        sys.exit(f"bench: {error}")
    print_table(report)
    print(json.dumps(report))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; the report that becomes the last line."""
    model, count = arguments.model, arguments.generate
    starts: list[Runner] = []
    samples: dict[str, list[Sample]] = {}
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(in_process(model))
        bias = tuple((token, BAN) for token in sorted(worker.tokenizer.eos_ids))
        port = stack.enter_context(spawned(model)).port

        def run_spawn(_: Prompt) -> Results:
            with spawned(model) as fresh:
                starts.append(fresh)
            return {}

        parts: list[Callable[[Prompt], Results]] = [
            run_spawn,
            lambda prompt: run_pipeline(worker, prompt, count, bias),
            lambda prompt: run_http(port, prompt, count, bias),
        ]
        if not arguments.without_mlx_lm:
            reference = stack.enter_context(reference_process(model))
            parts.append(lambda prompt: run_reference(reference, worker.tokenizer, prompt, count, bias))
        for number in range(-1, arguments.rounds):  # round -1 warms up
            prompt = make_prompt(worker.tokenizer, number, arguments.prompt)
            for turn in range(
                len(parts)
            ):  # each round begins with another part: the first is at no advantage
                for name, sample in parts[(number + turn) % len(parts)](prompt).items():
                    samples.setdefault(name, []).append(sample)
    counted = {name: samples[name][1:] for name in ORDER if name in samples}
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "model": DEMO if model == str(DEMO_FOLDER) else Path(model).resolve().name,
        "weight_bytes": sum(path.stat().st_size for path in Path(model).glob("*.safetensors")),
        "prompt_tokens": len(prompt.ids),
        "generated_tokens": count,
        "rounds": arguments.rounds,
        "spawn_s": {
            "first_answer": _median([start.answered_s for start in starts[1:]]),
            "first_200": _median([start.ready_s for start in starts[1:]]),
        },
        "tokens_per_s": {name: _speeds(found) for name, found in counted.items()},
        "ratios": _ratios(counted),
        "greedy": _greedy(counted),
    }


# --- the four parts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runner:
    """A spawned runner: where it listens, when it first answered at all and when it first said 200."""

    port: int
    answered_s: float
    ready_s: float


@contextlib.contextmanager
def spawned(model: str) -> Iterator[Runner]:
    """The installed console script, from spawn to the first 200, then until the end of the block."""
    port = _free_port()
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*_console_script(), "--model", model, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            answered = 0.0
            while (status := _health(port)) != 200:
                now = time.perf_counter() - began
                answered = answered or (now if status else 0.0)
                if process.poll() is not None or now > START_LIMIT_S:
                    raise Trouble(f"the runner did not start: {_last_line(errors)}")
                time.sleep(POLL_S)
            ready = time.perf_counter() - began
            yield Runner(port, answered or ready, ready)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def in_process(model: str) -> Iterator[Worker]:
    """A worker thread of ours with the model loaded."""
    worker = Worker(1, _die)
    worker.start()
    worker.load(model).result()
    try:
        yield worker
    finally:
        worker.stop()
        worker.join(10)


@dataclass(frozen=True)
class Events:
    """An outlet that always has room."""

    queue: queue.SimpleQueue[Event]

    def emit(self, event: Event) -> None:
        self.queue.put(event)

    def has_room(self) -> bool:
        return True


def run_pipeline(worker: Worker, prompt: Prompt, count: int, bias: Bias) -> Results:
    """One request through the worker, timed by its own counters."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    request = GenerateRequest(prompt.text, count, SamplingOptions(logit_bias=bias))
    worker.generate(request, Events(events))
    text: list[str] = []
    tokens: dict[int, int] = {}
    while True:
        match events.get():
            case Chunk() as chunk:
                text.append(chunk.text)
                tokens[chunk.usage.generated_tokens - 1] = chunk.token
            case Failed() as failed:
                raise Trouble(f"the pipeline failed: {failed.message}")
            case Done(usage=usage):
                sample = Sample(
                    prefill=(usage.prompt_tokens - usage.cached_tokens) * NS_PER_S / usage.prompt_ns,
                    decode=_decode_rate(usage.generated_tokens, usage.generate_ns / NS_PER_S),
                    first_s=usage.prompt_ns / NS_PER_S,
                    text="".join(text),
                    tokens=tokens,
                )
                return {"pipeline": sample}


def run_http(port: int, prompt: Prompt, count: int, bias: Bias) -> Results:
    """One request over a fresh connection: the server's own counters, and the client's clock."""
    options = {"num_predict": count, "logit_bias": {str(token): value for token, value in bias}}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.perf_counter()
    body = {"prompt": prompt.text, "options": options, "includeIntermediateMetrics": True}
    connection.request("POST", "/completion", json.dumps(body))
    response = connection.getresponse()
    if response.status != 200:
        raise Trouble(f"the runner answered {response.status}: {response.read().decode().strip()}")
    lines: list[bytes] = []
    times: list[float] = []
    while line := response.readline():
        times.append(time.perf_counter())
        lines.append(line)
    connection.close()
    records = [json.loads(line) for line in lines]
    last = records[-1]
    if "Error" in last:
        raise Trouble(f"the runner failed: {last['Error']['error']}")
    text = "".join(record["content"] for record in records)
    generated, prompt_s = last["eval_count"], last["prompt_eval_duration"] / NS_PER_S
    new = last["prompt_eval_count"] - last["PromptEvalCachedCount"]
    server = Sample(
        prefill=new / prompt_s,
        decode=_decode_rate(generated, last["eval_duration"] / NS_PER_S),
        first_s=prompt_s,
        text=text,
        tokens={},
    )
    first_s = times[0] - began
    rest = generated - records[0]["eval_count"] + 1
    client = Sample(new / first_s, _decode_rate(rest, times[-1] - times[0]), first_s, text, {})
    return {"http": server, "http client": client}


@contextlib.contextmanager
def reference_process(model: str) -> Iterator[subprocess.Popen[str]]:
    """This script again, as mlx-lm: in a process of its own nothing that we set for ourselves changes it."""
    command = [sys.executable, __file__, "--reference", "--model", model]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if "ready" not in _answer(process):
            raise Trouble("mlx-lm did not start")
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def run_reference(
    process: subprocess.Popen[str],
    tokenizer: Tokenizer,
    prompt: Prompt,
    count: int,
    bias: Bias,
) -> Results:
    """One request to mlx-lm, its text made by our tokenizer."""
    assert process.stdin is not None
    job = {"ids": prompt.ids, "count": count, "banned": [token for token, _ in bias]}
    print(json.dumps(job), file=process.stdin, flush=True)
    answer = _answer(process)
    tokens: list[int] = answer["tokens"]
    first_s: float = answer["first_s"]
    sample = Sample(
        prefill=len(prompt.ids) / first_s,
        decode=_decode_rate(len(tokens), answer["decode_s"]),
        first_s=first_s,
        text=tokenizer.decode(tokens),
        tokens=dict(enumerate(tokens)),
    )
    return {"mlx-lm": sample}


def serve_reference(model_path: str) -> None:
    """The reference process: one JSON line in, one out, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    try:
        import mlx.core as mx
        from mlx.utils import tree_map
        from mlx_lm.generate import generate_step
        from mlx_lm.utils import load_model
    except ImportError as error:
        print(json.dumps({"trouble": f"mlx-lm is missing ({error}): pip install -e '.[dev]'"}), file=answers)
        return
    model, _ = load_model(Path(model_path))
    model.update(tree_map(lambda array: array.astype(device.weight_dtype(array.dtype)), model.parameters()))
    mx.eval(model.parameters())
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        banned = mx.array(job["banned"], mx.int32)

        def greedy(logprobs: mx.array, banned: mx.array = banned) -> mx.array:
            return mx.argmax(logprobs.at[..., banned].add(BAN) if banned.size else logprobs, axis=-1)

        began = time.perf_counter()
        times, tokens = [], []
        for token, _ in generate_step(mx.array(job["ids"]), model, max_tokens=job["count"], sampler=greedy):
            times.append(time.perf_counter())
            tokens.append(int(token))
        found = {"tokens": tokens, "first_s": times[0] - began, "decode_s": times[-1] - times[0]}
        print(json.dumps(found), file=answers)


# --- prompts, clocks, the machine ------------------------------------------------------------------------


def make_prompt(tokenizer: Tokenizer, number: int, count: int) -> Prompt:
    """About `count` tokens of plain words; no two numbers begin alike."""
    draw = random.Random(number)
    text = f"{number + 1}: " + " ".join(draw.choices(WORDS.split(), k=count))
    text = tokenizer.decode(tokenizer.encode(text)[:count])
    return Prompt(text, tokenizer.encode(text))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.kind(),
        "slow_blas": blas_is_slow(),
        "compiler": any(shutil.which(name) for name in ("g++", "clang++", "c++")),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx_lm": _version_or_none("mlx-lm"),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    return platform.processor() or platform.machine()


def _version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _console_script() -> list[str]:
    beside = Path(sys.executable).parent / "mlx-runner"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "api"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _health(port: int) -> int:
    """The status of /health; 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Trouble("mlx-lm's process ended; its own message is above")
    answer: dict[str, Any] = json.loads(line)
    if "trouble" in answer:
        raise Trouble(answer["trouble"])
    return answer


# --- figures ---------------------------------------------------------------------------------------------


def _die(reason: str) -> None:
    print(f"bench: {reason}", file=sys.stderr)
    os._exit(1)


def _decode_rate(generated: int, seconds: float) -> float:
    return (generated - 1) / seconds if seconds > 0 else 0.0


def _median(values: Sequence[float]) -> float:
    return _rounded(statistics.median(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _speeds(found: Sequence[Sample]) -> dict[str, float]:
    return {
        "prefill": _median([sample.prefill for sample in found]),
        "decode": _median([sample.decode for sample in found]),
        "first_token_s": _median([sample.first_s for sample in found]),
        "best_prefill": _rounded(max(sample.prefill for sample in found)),
        "best_decode": _rounded(max(sample.decode for sample in found)),
    }


def _ratios(samples: dict[str, list[Sample]]) -> dict[str, float]:
    """Medians of the quotients within each round."""
    pairs = [("http client", "pipeline")]
    if "mlx-lm" in samples:
        pairs += [("pipeline", "mlx-lm"), ("http client", "mlx-lm")]
    ratios = {}
    for ours, theirs in pairs:
        both = list(zip(samples[ours], samples[theirs], strict=True))
        ratios[f"prefill: {ours} / {theirs}"] = _median([a.prefill / b.prefill for a, b in both])
        ratios[f"decode: {ours} / {theirs}"] = _median([a.decode / b.decode for a, b in both])
    return ratios


def _greedy(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """Whether pipeline and HTTP, and pipeline and mlx-lm, said the same; if not, where tokens part, per round."""
    same = {"http": [a.text == b.text for a, b in zip(samples["pipeline"], samples["http"], strict=True)]}
    greedy: dict[str, Any] = {"pipeline_equals_http": all(same["http"])}
    if "mlx-lm" in samples:
        both = list(zip(samples["pipeline"], samples["mlx-lm"], strict=True))
        parted = [_parting(ours, theirs) for ours, theirs in both]
        greedy["pipeline_equals_mlx_lm"] = all(place is None for place in parted)
        greedy["first_difference"] = parted
    return greedy


def _parting(ours: Sample, theirs: Sample) -> int | None:
    """The first known token that differs; the text decides about tokens that ended no character."""
    places = [place for place, token in sorted(ours.tokens.items()) if theirs.tokens.get(place) != token]
    if places:
        return places[0]
    return None if ours.text == theirs.text else len(ours.tokens)


def print_table(report: dict[str, Any]) -> None:
    """For people."""
    where = report["machine"]
    print(
        f"{where['cpu']}, {where['cores']} cores, {where['system']}; MLX {where['mlx']} on {where['device']}"
    )
    print(
        f"{report['model']}: {report['prompt_tokens']} tokens in, {report['generated_tokens']} out,"
        f" medians of {report['rounds']} rounds\n"
    )
    spawn = report["spawn_s"]
    print(f"spawn to the first answer {spawn['first_answer']:.3f} s, to 200 {spawn['first_200']:.3f} s\n")
    print(f"{'':14}{'prefill tok/s':>15}{'decode tok/s':>15}{'first token ms':>17}")
    for name, speeds in report["tokens_per_s"].items():
        print(
            f"{name:14}{speeds['prefill']:15.1f}{speeds['decode']:15.1f}{1000 * speeds['first_token_s']:17.1f}"
        )
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name:40}{ratio:8.3f}")
    greedy = report["greedy"]
    print(f"\ngreedy text over HTTP equals the pipeline's: {greedy['pipeline_equals_http']}")
    if "pipeline_equals_mlx_lm" in greedy:
        print(f"greedy tokens equal mlx-lm's: {greedy['pipeline_equals_mlx_lm']}")
    print()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.py",
        description="Start-up time and token rates: pipeline, HTTP and mlx-lm, in one run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", metavar="PATH", default=DEMO, help="a Hugging Face model directory (default: the demo)")
    add("--prompt", metavar="N", type=int, default=256, help="prompt tokens (default: %(default)s)")
    add("--generate", metavar="N", type=int, default=64, help="generated tokens (default: %(default)s)")
    add("--rounds", metavar="R", type=int, default=5, help="rounds after a warm-up (default: %(default)s)")
    add("--without-mlx-lm", action="store_true", help="measure our own side only")
    add("--reference", action="store_true", help=argparse.SUPPRESS)  # the mlx-lm process
    arguments = parser.parse_args()
    if arguments.model == DEMO:
        arguments.model = str(DEMO_FOLDER)
    if arguments.prompt < 2 or arguments.generate < 2 or arguments.rounds < 1:
        parser.error("--prompt and --generate need at least 2, --rounds at least 1")
    return arguments


if __name__ == "__main__":
    main()
