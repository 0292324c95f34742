"""Entry point of `cambrian-gaze`: a table of subcommands, of which only the chosen one is imported."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from cambrian_gaze import __version__
from cambrian_gaze.data.errors import speaking_of_flags


class Command(NamedTuple):
    """A subcommand: what the overview says about it, and the `module:function` that takes its arguments."""

    summary: str
    target: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        "train and evaluate tiny dense and gaze models on embedded data, offline",
        "cambrian_gaze.quickstart.run:main",
    ),
    "init": Command(
        "make a model folder from a language model and a vision tower", "cambrian_gaze.cli.weights.init:main"
    ),
    "convert": Command("convert checkpoints from and to Cambrian's layout", "cambrian_gaze.cli.weights.convert:main"),
    "train": Command("train from a YAML config: stage 1 or stage 2", "cambrian_gaze.cli.train:main"),
    "plan": Command("say what training runs will take: memory, FLOPs, hours", "cambrian_gaze.cli.plan:main"),
    "merge": Command("add a LoRA adapter into the weights of its model", "cambrian_gaze.cli.weights.merge:main"),
    "generate": Command("answer a prompt about images with a saved model", "cambrian_gaze.cli.generate:main"),
    "chat": Command("talk to a model in the terminal, and see where it looks", "cambrian_gaze.cli.chat:main"),
    "demo": Command("a page to talk to a model, and to see and steer its gaze", "cambrian_gaze.cli.demo:main"),
    "gaze": Command("look at a saved trace: a page to explore, pictures for papers", "cambrian_gaze.cli.gaze:main"),
    "answer": Command("answer every record of a data file, into a journal", "cambrian_gaze.cli.answer:main"),
    "data": Command("index, check, count or look at data before a run", "cambrian_gaze.cli.data:main"),
    "eval": Command(
        "answer and score public benchmarks, fill the paper's tables", "cambrian_gaze.cli.eval.evaluate:main"
    ),
    "gazebench": Command(
        "make or look at a benchmark of rendered pages whose answers must look anew", "cambrian_gaze.cli.gazebench:main"
    ),
    "study": Command(
        "compare small models over seeds on that benchmark, with intervals", "cambrian_gaze.cli.study:main"
    ),
    "reproduce": Command(
        "one row of the paper's tables: train, evaluate, fill the table", "cambrian_gaze.cli.reproduce:main"
    ),
    "cost": Command("count the KV entries that a query attends to, for a grid and a K", "cambrian_gaze.cli.cost:main"),
    "export": Command(
        "write a saved model as a dense model of transformers, in bf16, int8 or int4",
        "cambrian_gaze.cli.weights.export:main",
    ),
    "push": Command("upload a saved model with a card made of its run", "cambrian_gaze.cli.push:main"),
    "serve": Command("a chat endpoint in the form of OpenAI's API", "cambrian_gaze.cli.serve:main"),
    "checkpoint": Command("list, verify, export, show saved models", "cambrian_gaze.cli.checkpoint:main"),
    "report": Command("write one page about a training run: curves and samples", "cambrian_gaze.cli.report:main"),
    "bench": Command("measure attention, decoding, data or training steps", "cambrian_gaze.cli.bench:main"),
}


def overview() -> str:
    """The text of `cambrian-gaze --help`."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cambrian-gaze [-h] [--version] COMMAND ...",
            "",
            "Multimodal LLMs with Gaze Attention: training, generation, evaluation.",
            "",
            "commands:",
            *rows,
            "",
            "'cambrian-gaze COMMAND --help' shows the options of a command.",
        ]
    )


def unknown(name: str) -> str:
    """The error message for a subcommand that does not exist: the nearest name, or all of them."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(COMMANDS)}"
    return f"cambrian-gaze: unknown command {name!r}; {remedy}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cambrian-gaze` with `argv` (default: the process's own); returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(overview(), file=sys.stderr)
        return 2
    first, rest = arguments[0], arguments[1:]
    if first in ("-h", "--help"):
        print(overview())
        return 0
    if first == "--version":
        print(f"cambrian-gaze {__version__}")
        return 0
    if first not in COMMANDS:
        print(unknown(first), file=sys.stderr)
        return 2
    module, _, function = COMMANDS[first].target.partition(":")
    with speaking_of_flags():
        return getattr(importlib.import_module(module), function)(rest) or 0


if __name__ == "__main__":
    sys.exit(main())
