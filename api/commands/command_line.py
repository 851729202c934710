"""The command line, for two callers with one parser.

A host spawns `runner [--mlx-engine] --model NAME --port N`, in Go's spelling: one dash or two, `-x v` or `-x=v`,
`-verbose=true`. A person types `mlx-runner --model PATH`.

Knows nothing about what the options do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from api.process.environment import MAX_PARALLEL, MAX_RANKS, MIN_CONTEXT, size
from runner.store.resolve import DEMO
from runner.types import AS_COMPUTED, KV_TYPES, KVType

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11435  # Ollama itself listens on 11434

EPILOG = """\
examples:
  mlx-runner                                 the built-in demo model on 127.0.0.1:11435
  mlx-runner --model ~/models/Llama-3.2-1B   a Hugging Face directory (config.json, tokenizer.json, *.safetensors)
  mlx-runner import DIR --name NAME          a Hugging Face directory into the model store; then --model NAME;
                                             --quantize int4 makes it smaller; mlx-runner import --help
  mlx-runner show NAME                       what a model is: size, quantization, context length; or show DIR
  mlx-runner runner --mlx-engine --model NAME --port N    as a host process spawns it; ends with its parent

then:
  curl http://127.0.0.1:11435/health
  curl -N http://127.0.0.1:11435/completion -d '{"prompt": "Once upon a time", "options": {"num_predict": 60}}'

environment:
  OLLAMA_MODELS     the model store (default ~/.ollama/models)
  OLLAMA_DEBUG      1 logs more, 2 logs everything
  OLLAMA_MAX_QUEUE  how many requests may wait before the next one gets 503 (default 512)
  OLLAMA_NUM_PARALLEL  how many requests are answered at once (default 1)
  OLLAMA_CONTEXT_LENGTH  tokens that prompt and answer may have together (default: as many as the model can)
  OLLAMA_KV_CACHE_TYPE  f16, q8_0 or q4_0: how keys and values are kept (default f16: as the model computes them)
  MLX_RUNNER_MEMORY  what MLX may hold, as 8G (default: a share of the memory)
  MLX_RUNNER_CACHE_DIR  a folder that keeps prompts from one start to the next (default: none does)
  MLX_RUNNER_CACHE_SIZE  what it may hold (default 16G)
  MLX_RUNNER_TOKEN  requests must show it: Authorization: Bearer TOKEN (Ollama shows none)
  MLX_RUNNER_TENSOR_PARALLEL  how many processes have the model together (default 1)
  MLX_RUNNER_WATCHDOG  seconds without progress after which a load or a step ends the runner; 0: never

exit codes:
  0 asked to stop   2 usage   3 address in use   4 model cannot be loaded   5 MLX thread died or is stuck
  6 out of memory three times in a row   7 parent gone   8 a rank is lost   130, 143 a second SIGINT, SIGTERM
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What was asked for. hosted: spawned by a host process, so our life depends on its.

    packed: keep quantized weights packed in any case. parallel: how many requests are answered at once.
    context_length: tokens that prompt and answer may have together. memory: bytes that MLX may hold.
    cache_dir, cache_size: where slots are saved, and how many bytes. kv_type: how slots keep keys and values.
    None if nothing was said.
    open_to_network: host may be reached from other machines, without a token. tensor_parallel: processes that have
    the model together.
    """

    model: str
    host: str
    port: int
    hosted: bool
    packed: bool = False
    parallel: int | None = None
    context_length: int | None = None
    memory: int | None = None
    cache_dir: Path | None = None
    cache_size: int | None = None
    open_to_network: bool = False
    kv_type: KVType | None = None
    tensor_parallel: int | None = None


def parse(argv: Sequence[str]) -> Arguments:
    """Read the arguments after the program's name; usage errors exit with 2, --help and --version with 0."""
    words = list(argv)
    hosted = words[:1] == ["runner"]
    parser = _parser(hosted)
    options = parser.parse_args(_go_booleans(words[1:] if hosted else words))
    if hosted and not options.model:
        parser.error("runner needs --model NAME")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: expected 0 to 65535")
    if options.parallel is not None and not 1 <= options.parallel <= MAX_PARALLEL:
        parser.error(f"--parallel {options.parallel}: expected 1 to {MAX_PARALLEL}")
    if options.tensor_parallel is not None and not 1 <= options.tensor_parallel <= MAX_RANKS:
        parser.error(f"--tensor-parallel {options.tensor_parallel}: expected 1 to {MAX_RANKS}")
    if options.context_length is not None and options.context_length < MIN_CONTEXT:
        parser.error(f"--context-length {options.context_length}: expected {MIN_CONTEXT} or more")
    if options.kv_type is not None and options.kv_type not in KV_TYPES:
        parser.error(f"--kv-type {options.kv_type}: expected one of {', '.join(KV_TYPES)}")
    sizes: dict[str, int | None] = {}
    for name in ("memory", "cache_size"):
        text = getattr(options, name)
        try:
            sizes[name] = None if text is None else size(text)
        except ValueError as error:
            parser.error(f"--{name.replace('_', '-')} {error}")
    return Arguments(
        model=options.model or DEMO,
        host=options.host,
        port=options.port,
        hosted=hosted,
        packed=options.packed,
        parallel=options.parallel,
        context_length=options.context_length,
        memory=sizes["memory"],
        cache_dir=Path(options.cache_dir) if options.cache_dir else None,
        cache_size=sizes["cache_size"],
        open_to_network=options.open_to_network,
        kv_type=options.kv_type,
        tensor_parallel=options.tensor_parallel,
    )


def _parser(hosted: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-runner runner" if hosted else "mlx-runner",
        description="Serve one language model on MLX over HTTP, as Ollama's runner does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = partial(_add, parser)
    add("model", metavar="MODEL", default="", help="a directory, or a name in the store (default: demo)")
    _add_address(add, DEFAULT_PORT if not hosted else 0)
    _add_serving(add)
    _add_keeping(add)
    add("verbose", action="store_true", help="accepted and ignored; see OLLAMA_DEBUG")
    add("version", action="version", version=f"mlx-runner {version('mlx-runner')}")
    if hosted:
        add("mlx-engine", action="store_true", help="accepted; hosts before v0.34.3 send it")
    return parser


def _add(parser: argparse.ArgumentParser, name: str, **about: Any) -> None:
    """With two dashes, or with one, as Go's programs have it."""
    parser.add_argument(f"--{name}", f"-{name}", **about)


def _add_address(add: Callable[..., None], port: int) -> None:
    add(
        "host",
        metavar="ADDRESS",
        default=DEFAULT_HOST,
        help="address to bind (default: %(default)s); one that other machines reach needs MLX_RUNNER_TOKEN, "
        "or --open-to-network",
    )
    add(
        "open-to-network",
        action="store_true",
        help="allow such an address without a token: whoever reaches the port can run prompts, load every model "
        "that you can read, see what is cached and forget it; nothing is encrypted",
    )
    add(
        "port",
        metavar="N",
        type=int,
        default=port,
        help="port to bind; 0 lets the system choose (default: %(default)s)",
    )


def _add_serving(add: Callable[..., None]) -> None:
    add(
        "packed",
        action="store_true",
        help="keep quantized weights packed: less memory, slower (with Metal they always are, with CUDA mostly)",
    )
    add(
        "parallel",
        metavar="N",
        type=int,
        help="requests to answer at once, each with a KV cache of its own (default: OLLAMA_NUM_PARALLEL or 1)",
    )
    add(
        "context-length",
        metavar="N",
        type=int,
        help="tokens that prompt and answer may have together, if the model can have more "
        "(default: OLLAMA_CONTEXT_LENGTH or the model's own)",
    )
    add(
        "memory",
        metavar="SIZE",
        help="what MLX may hold, weights included, as 8G or 512M (default: MLX_RUNNER_MEMORY or a share)",
    )


def _add_keeping(add: Callable[..., None]) -> None:
    add(
        "cache-dir",
        metavar="DIR",
        help="a folder, private to you, that keeps prompts from one start to the next "
        "(default: MLX_RUNNER_CACHE_DIR or none)",
    )
    add(
        "cache-size",
        metavar="SIZE",
        help="what it may hold, as 8G or 512M (default: MLX_RUNNER_CACHE_SIZE or 16G)",
    )
    add(
        "kv-type",
        metavar="TYPE",
        help="how keys and values are kept: f16, which is as the model computes them, or quantized, q8_0 or q4_0 "
        f"(default: OLLAMA_KV_CACHE_TYPE or {AS_COMPUTED})",
    )
    add(
        "tensor-parallel",
        metavar="N",
        type=int,
        help="processes that have the model together, each with a part of it, and with a GPU of its own where "
        "there are several: for models that do not fit into one (default: MLX_RUNNER_TENSOR_PARALLEL or 1)",
    )


def _go_booleans(words: list[str]) -> list[str]:
    """`-verbose=true` -> `-verbose`; `-verbose=false` -> nothing."""
    result = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.lstrip("-") in ("verbose", "packed", "mlx-engine", "open-to-network"):
            result += [name] if value in ("1", "t", "T", "true", "TRUE", "True") else []
        else:
            result.append(word)
    return result
