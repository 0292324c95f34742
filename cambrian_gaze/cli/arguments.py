"""Arguments that several subcommands share. Plain Python: `--help` must not wait for torch."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.plugins import add_plugin, load_given

BUDGETS = ("top_k", "keep_ratio", "kv_budget")


def table_parser(prog: str, heading: str, table: Mapping[str, tuple[str, str]]) -> argparse.ArgumentParser:
    """The parser of a command that is a table of others, name → (module, summary): takes the name of one."""
    width = max(map(len, table))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in table.items()]
    parser = argparse.ArgumentParser(
        prog=prog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="\n".join([heading, *lines, "", f"'{prog} NAME --help' shows the options."]),
    )
    parser.add_argument("name", choices=table, metavar="NAME", help="one of these")
    return parser


def run_action(
    prog: str,
    heading: str,
    actions: Mapping[str, tuple[str, str]],
    argv: Sequence[str] | None,
    failed: int,
    said: Callable[[Exception], str] = str,
) -> int:
    """Run one of a command's actions, name → (module, summary): modules with `build_parser()` and `run(arguments)`,
    whose text is printed. Returns the exit status: `failed` where it raises OSError or ValueError, told as `said`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = table_parser(prog, heading, actions).parse_args(arguments[:1]).name
    action = importlib.import_module(actions[name][0])
    options = action.build_parser().parse_args(arguments[1:])
    try:
        print(action.run(options))
    except (OSError, ValueError) as error:
        print(f"{prog} {name}: {said(error)}", file=sys.stderr)
        return failed
    return 0


def positive(text: str) -> int:
    """An integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return number


def extent(text: str) -> tuple[int, int, int]:
    """`HxW` or `TxHxW` in visual tokens as (T, H, W), T = 1 where it is not given."""
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 24x24 (height x width) or 8x24x24 (frames first)")
    t, h, w = ["1", *parts][-3:]
    return int(t), int(h), int(w)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The options of a command that generates: model, budget, length, device."""
    add_model(parser)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--top_k", type=positive, metavar="K", help="regions per query, head and layer; --sampling_top_k is another"
    )
    budget.add_argument("--keep_ratio", type=float, metavar="R", help="share of the regions; 1.0 is dense attention")
    budget.add_argument("--kv_budget", type=positive, metavar="N", help="visual tokens per query")
    parser.add_argument("--max_new_tokens", type=positive, default=128, metavar="N", help="default: 128")
    add_system(parser)
    add_device(parser)


def add_model(parser: argparse.ArgumentParser, adapter: bool = True) -> None:
    """Which saved model, and whether an adapter may lie over it."""
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of save_pretrained, or a Hub name")
    if adapter:
        parser.add_argument("--adapter", metavar="DIR", help="folder of a run with lora_enable, loaded over the model")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where the model runs."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: cuda where there is one")


def add_system(parser: argparse.ArgumentParser) -> None:
    """What is said before a conversation."""
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help="what the system turn says; default: as the checkpoint has it (converted ones say what their parent was "
        "trained with), '': no system turn",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Whether and how to sample. `--top_k` is regions; what transformers calls top_k is `--sampling_top_k` here."""
    parser.add_argument(
        "--temperature", type=_from_zero, metavar="T", help="sample at this temperature; default: 0, greedy"
    )
    parser.add_argument(
        "--top_p", type=_share, metavar="P", help="sample from the likeliest tokens that make up this probability"
    )
    parser.add_argument(
        "--sampling_top_k", type=positive, metavar="N",
        help="sample from the N likeliest tokens (transformers' top_k; --top_k is regions)",
    )  # fmt: skip
    parser.add_argument("--seed", type=_seed, metavar="N", help="of sampling; default: another one each time")


def sampling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_sampling` as `generate` takes them, the seed apart.

    Raises: ValueError where one would be without effect.
    """
    given = {"temperature": arguments.temperature, "top_p": arguments.top_p, "top_k": arguments.sampling_top_k}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("temperature", 1.0) < 1e-4:
        if len(given) > 1:
            raise ValueError("--top_p and --sampling_top_k have no effect at --temperature 0; leave one of them out")
        given = {}
    if not given:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0} | given


def _from_zero(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and up to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 0 to 2^64 - 1")
    return value


def one_line(error: BaseException) -> str:
    """An error's text without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def add_video(parser: argparse.ArgumentParser) -> None:
    """How a video becomes frames, see `FrameSampling`."""
    parser.add_argument("--video_fps", type=float, default=1.0, metavar="N", help="frames taken a second; default: 1")
    parser.add_argument(
        "--video_max_frames", type=positive, default=64, metavar="N", help="most frames of a video; default: 64"
    )
    parser.add_argument(
        "--video_force_sample", action="store_true", help="always the most frames, evenly spread, or all that there are"
    )
    parser.add_argument(
        "--video_backend",
        choices=("auto", "decord", "pyav"),
        default="auto",
        help="decoder of video files; default: auto, decord where it is exact for the file, elsewhere PyAV",
    )
    parser.add_argument(
        "--video_timeout", type=float, default=120.0, metavar="S", help="seconds for a video; default: 120, 0: no limit"
    )


def add_policy(parser: argparse.ArgumentParser) -> None:
    """A baseline that limits what is seen, in the place of routing."""
    parser.add_argument(
        "--policy",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="a baseline in the place of routing, such as: snapkv budget=72 (docs/baselines.md)",
    )
    add_plugin(parser)


def policy_from(arguments: argparse.Namespace) -> Any:
    """The policy that the options of `add_policy` name, None for none; plugins are loaded. Raises ValueError."""
    words = arguments.policy
    load_given(arguments)
    if not words:
        return None
    from cambrian_gaze.baselines.registry import make_policy

    return make_policy(words[0], key_values("--policy NAME", words[1:]))


def key_values(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """`top_k=2 context_visible=false` as options. Raises ValueError for a text without "="."""
    import yaml

    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{flag} takes KEY=VALUE, such as top_k=2, got {text!r}")
        options[name] = yaml.safe_load(value)
    return options


def add_image_position(parser: argparse.ArgumentParser) -> None:
    """Where the pictures of a record stand in its turns, see `data.conversation`."""
    parser.add_argument(
        "--image_position",
        choices=("first", "as_written"),
        default="first",
        help="where the pictures of a turn stand: before its text, or where the record has them; default: first",
    )


def sampling_from(arguments: argparse.Namespace) -> Any:
    """The `FrameSampling` of `add_video`'s options. Raises ValueError."""
    from dataclasses import fields

    from cambrian_gaze.data.media.frame_sampling import FrameSampling

    return FrameSampling(**{field.name: getattr(arguments, field.name) for field in fields(FrameSampling)})


def gigabytes(text: str) -> int:
    """A positive number of gigabytes (10⁹) as bytes."""
    try:
        size = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of gigabytes")
    return size


def add_key_report(parser: argparse.ArgumentParser) -> None:
    """The options of a command that makes one checkpoint of others."""
    parser.add_argument("--json", metavar="FILE", help="write the report of every key there")
    parser.add_argument("--dry_run", action="store_true", help="check every key and shape, and write no model")


def print_key_report(report: Any, arguments: argparse.Namespace) -> int:
    """Print a `KeyReport` and write its JSON. Returns the exit status: 1 where keys do not match."""
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    print(report.table())
    print(f"{report.summary()}{' (nothing was written)' if arguments.dry_run else f'; wrote {arguments.out}'}")
    try:
        report.check()
    except ValueError as error:
        print(error)
        return 1
    return 0


def gaze_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The budget given, as `generate(gaze=…)` takes it; empty: as the checkpoint has it."""
    return {name: getattr(arguments, name) for name in BUDGETS if getattr(arguments, name) is not None}
