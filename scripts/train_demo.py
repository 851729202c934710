#!/usr/bin/env python3
"""Train the demo model from nothing: make the text, learn the tokenizer, train, measure, write the folder.

    scripts/train_demo.py                        the model that is shipped (minutes on a GPU)
    scripts/train_demo.py --steps 20 --batch 2048   a try on any machine
    scripts/train_demo.py --resume               go on after the last checkpoint
    scripts/train_demo.py --evaluate             measure the folder again and rewrite its card
    scripts/train_demo.py --ask "What is 2 + 2?" one answer of the trained model

The work folder keeps the tokenizer, the last checkpoint (weights, optimizer, step) and training.json; the model's
folder is written at every checkpoint, so an interrupted run leaves a model that works.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from runner.machine.blas import open_blas  # noqa: E402  # before MLX is imported, see runner/machine/blas.py

open_blas()

import mlx.core as mx  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from demo_train import evaluate  # noqa: E402
from demo_train.card import write_card  # noqa: E402
from demo_train.data import Plan, batches  # noqa: E402
from demo_train.model import Llama, Shape, parameter_count, parameters_of, read_model, write_model  # noqa: E402
from demo_train.vocabulary import train_tokenizer, write_tokenizer  # noqa: E402
from mlx.nn.losses import cross_entropy  # noqa: E402
from mlx.nn.utils import value_and_grad  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=19000, help="training steps (default %(default)s)")
    add("--batch", type=int, default=65536, metavar="TOKENS", help="tokens a step (default %(default)s)")
    add("--length", type=int, default=512, help="tokens a row (default %(default)s)")
    add("--long-length", type=int, default=8192, help="tokens a long row (default %(default)s)")
    add(
        "--long-share",
        type=float,
        default=0.12,
        help="share of the steps with long rows (default %(default)s)",
    )
    add("--learning-rate", type=float, default=2e-3, help="peak learning rate (default %(default)s)")
    add("--seed", type=int, default=1, help="seed of the text and of the weights (default %(default)s)")
    add("--out", type=Path, default=ROOT / "runner/demo", help="folder of the model (default runner/demo)")
    add(
        "--work", type=Path, default=ROOT / "build/demo", help="folder of the checkpoint (default build/demo)"
    )
    add("--checkpoint-every", type=int, default=500, metavar="STEPS", help="(default %(default)s)")
    add("--resume", action="store_true", help="go on after the checkpoint of the work folder")
    add("--evaluate", action="store_true", help="only measure the model in --out and rewrite its card")
    add("--ask", metavar="QUESTION", help="only print the model's answer to a question")
    add("--device-name", help="the machine's name for the card (default: what MLX reports)")
    return parser.parse_args()


def learning_rate(peak: float, steps: int) -> Callable[[mx.array], mx.array]:
    """A short warm-up, then a cosine down to a fiftieth of the peak."""
    warm = max(1, min(200, steps // 10))
    rise = optim.linear_schedule(peak / 50, peak, warm)
    fall = optim.cosine_decay(peak, max(1, steps - warm), peak / 50)
    schedule: Callable[[mx.array], mx.array] = optim.join_schedules([rise, fall], [warm])
    return schedule


def loss_of(model: Llama, rows: mx.array) -> mx.array:
    """Mean cross-entropy of every next token. Rows [B,L+1]."""
    logits = model(rows[:, :-1]).astype(mx.float32)
    return cross_entropy(logits, rows[:, 1:], reduction="mean")


class Progress:
    """One line that is drawn over itself on a terminal, and a line now and then elsewhere."""

    def __init__(self, steps: int, first: int) -> None:
        self._steps, self._first, self._started, self._drawn = steps, first, time.monotonic(), 0.0

    def show(self, step: int, loss: float, tokens_per_step: int, final: bool = False) -> None:
        """Draw the bar after `step` steps."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not final and now - self._drawn < (0.2 if terminal else 10):
            return
        self._drawn = now
        rate = (step - self._first) / max(now - self._started, 1e-9)
        left_s = (self._steps - step) / rate if rate else 0.0
        done = round(30 * step / self._steps)
        line = (
            f"[{'#' * done}{'.' * (30 - done)}] {step}/{self._steps}  loss {loss:.4f}  "
            f"{rate * tokens_per_step:,.0f} tokens/s  {left_s / 60:.1f} min left"
        )
        print(
            f"\r{line}" if terminal else line,
            end="" if terminal and not final else "\n",
            file=sys.stderr,
            flush=True,
        )


def save_checkpoint(work: Path, model: Llama, optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
    """Weights, optimizer and counters; the old checkpoint is replaced only by a whole new one."""
    new = work / "checkpoint.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    mx.save_safetensors(str(new / "weights.safetensors"), parameters_of(model))
    mx.save_safetensors(str(new / "optimizer.safetensors"), dict(tree_flatten(optimizer.state)))
    (new / "state.json").write_text(json.dumps(state, indent=2))
    shutil.rmtree(work / "checkpoint", ignore_errors=True)
    new.rename(work / "checkpoint")


def load_checkpoint(work: Path, model: Llama, optimizer: optim.Optimizer) -> dict[str, Any]:
    """Put the checkpoint's numbers into model and optimizer; returns the counters."""
    folder = work / "checkpoint"
    model.load_weights(str(folder / "weights.safetensors"))
    values = mx.load(str(folder / "optimizer.safetensors"))
    assert isinstance(values, dict)
    optimizer.state = tree_unflatten(list(values.items()))
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def device_name() -> str:
    """What the card calls the machine."""
    if mx.default_device() == mx.Device(mx.gpu):
        return f"one {mx.device_info().get('device_name', 'GPU')}"
    return f"a CPU ({platform.machine()})"


def write_folder(out: Path, model: Llama, shape: Shape, tokenizer: Tokenizer) -> None:
    """Everything but the card."""
    out.mkdir(parents=True, exist_ok=True)
    write_model(model, shape, out)
    write_tokenizer(tokenizer, out, shape.context_length)


def train(arguments: argparse.Namespace) -> None:
    """The whole training; writes the folder and its card."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    settings = {
        key: getattr(arguments, key)
        for key in ("steps", "batch", "length", "long_length", "long_share", "learning_rate", "seed")
    }

    # The tokenizer belongs to the run: a resumed one must not learn another.
    if arguments.resume:
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    else:
        print("learning the tokenizer", file=sys.stderr, flush=True)
        tokenizer = train_tokenizer(arguments.seed)
        tokenizer.save(str(work / "tokenizer.json"))

    mx.random.seed(arguments.seed)
    shape = Shape(
        vocab_size=tokenizer.get_vocab_size(), context_length=max(arguments.long_length, arguments.length)
    )
    model = Llama(shape, mx.bfloat16 if mx.default_device() == mx.Device(mx.gpu) else mx.float32)
    optimizer = optim.AdamW(
        learning_rate(arguments.learning_rate, arguments.steps),
        betas=[0.9, 0.95],
        weight_decay=0.02,
        bias_correction=True,
    )
    optimizer.init(tree_unflatten(list(parameters_of(model).items())))
    mx.eval(model.state, optimizer.state)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": [], "settings": settings}
    if arguments.resume:
        state = load_checkpoint(work, model, optimizer)
        if state["settings"] != settings:
            raise SystemExit(
                f"the checkpoint was made with other settings: {state['settings']}, not {settings}"
            )

    def step_of(rows: mx.array) -> mx.array:
        loss: mx.array
        loss, gradients = value_and_grad(model, loss_of)(model, rows)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)  # type: ignore[no-untyped-call]  # no types in MLX
        optimizer.update(model, gradients)
        return loss

    step_once = mx.compile(
        step_of, inputs=[model.state, optimizer.state], outputs=[model.state, optimizer.state]
    )

    plan = Plan(
        tokenizer.to_str(),
        arguments.seed,
        arguments.steps,
        arguments.batch,
        arguments.length,
        arguments.long_length,
        arguments.long_share,
    )
    progress = Progress(arguments.steps, state["step"])
    recent: deque[float] = deque(state["losses"], maxlen=100)
    waiting: mx.array | None = None
    started = time.monotonic() - state["seconds"]
    step = int(state["step"])
    for rows in batches(plan, step):
        loss = step_once(mx.array(rows.astype("int32")))
        mx.async_eval(loss, model.state, optimizer.state)  # type: ignore[no-untyped-call]  # no types in MLX
        if waiting is not None:  # read one step late, so that the device never waits for us
            recent.append(evaluate.number(waiting))
        waiting = loss
        step += 1
        if step % 10 == 0 and recent:
            progress.show(step, sum(recent) / len(recent), arguments.batch)
            if not math.isfinite(recent[-1]):
                raise SystemExit(f"the loss is {recent[-1]} at step {step}")
        if step % arguments.checkpoint_every == 0 or step == arguments.steps:
            recent.append(evaluate.number(waiting))
            waiting = None
            state.update(step=step, seconds=time.monotonic() - started, losses=list(recent))
            save_checkpoint(work, model, optimizer, state)
            write_folder(arguments.out, model, shape, tokenizer)
    progress.show(step, sum(recent) / len(recent), arguments.batch, final=True)

    facts = {
        "parameters": parameter_count(model),
        "steps": step,
        "tokens_per_step": arguments.batch,
        "length": arguments.length,
        "long_length": arguments.long_length,
        "long_share": arguments.long_share,
        "learning_rate": arguments.learning_rate,
        "seed": arguments.seed,
        "seconds": round(state["seconds"], 1),
        "device": arguments.device_name or device_name(),
        "loss": round(sum(recent) / len(recent), 4),
        "command": command_line(arguments),
    }
    (work / "training.json").write_text(json.dumps(facts, indent=2))
    measure(arguments.out, facts)


def command_line(arguments: argparse.Namespace) -> str:
    """The command that makes this model again."""
    names = ("steps", "batch", "length", "long_length", "long_share", "learning_rate", "seed")
    return "scripts/train_demo.py " + " ".join(
        f"--{name.replace('_', '-')} {getattr(arguments, name)}" for name in names
    )


def measure(out: Path, facts: dict[str, Any]) -> None:
    """Perplexity, skills and samples of the folder as it is on disk, printed and written into its card."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    model = read_model(out)
    held_out = asdict(evaluate.perplexity(model, tokenizer))
    facts["held_out"] = {
        "perplexity": round(held_out["value"], 4),
        "documents": held_out["documents"],
        "tokens": held_out["tokens"],
    }
    facts["skills"] = evaluate.skills(model, tokenizer)
    facts["samples"] = evaluate.samples(model, tokenizer)
    write_card(out, facts)
    print(json.dumps({"loss": facts["loss"], **facts["held_out"]}))
    for name, scores in facts["skills"].items():
        print(
            f"{name:24} right {100 * scores['right']:6.2f} %   "
            f"ended {100 * scores['ended']:6.2f} %   of {scores['asked']}"
        )
    for question, answer in facts["samples"]:
        print(f"\n# {question}\n{answer}")


def main() -> None:
    """Train, measure or ask."""
    arguments = parse_arguments()
    if arguments.ask is not None:
        tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
        print(evaluate.samples(read_model(arguments.out), tokenizer, [arguments.ask])[1][1])
    elif arguments.evaluate:
        measure(arguments.out, json.loads((arguments.out / "training.json").read_text()))
    else:
        os.nice(5)  # training takes whatever the machine has left
        train(arguments)


if __name__ == "__main__":
    main()
