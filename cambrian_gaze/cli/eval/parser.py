"""The options of `cambrian-gaze eval`, action by action."""

from __future__ import annotations

import argparse
from typing import Any

from cambrian_gaze.cli.arguments import add_policy, add_system, add_video, positive
from cambrian_gaze.cli.eval import cost as eval_cost
from cambrian_gaze.cli.eval import lmms as eval_lmms
from cambrian_gaze.cli.eval import routing as eval_routing
from cambrian_gaze.cli.plugins import add_plugin

ACTIONS = {
    "run": "answer benchmarks with a model, and score the answers",
    "score": "score the answers of a run again; needs no model and no data",
    "doctor": "check schema, counts and media of benchmarks; needs no model",
    "table": "fill one row of a table: run what is missing, compare with the paper",
    "cost": "measure what attention costs, dense beside gaze, prefill and decoding apart",
    "routing": "measure whether routing finds the place that a phrase is about; needs the extra routing",
    "lmms": "run tasks of lmms-eval, or our benchmarks in it; needs the extra lmms",
}


def build_parser(action: str | None = None) -> argparse.ArgumentParser:
    """The parser of one action; of `cambrian-gaze eval` itself for None."""
    if action is None:
        width = max(map(len, ACTIONS))
        lines = [f"  {name:<{width}}  {summary}" for name, summary in ACTIONS.items()]
        hint = "'cambrian-gaze eval ACTION --help' shows the options."
        parser = argparse.ArgumentParser(
            prog="cambrian-gaze eval",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description="\n".join(["Evaluate on public benchmarks. One of:", *lines, "", hint]),
        )
        parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="what to do")
        return parser
    summary = ACTIONS[action]
    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze eval {action}", allow_abbrev=False, description=f"{summary[0].upper()}{summary[1:]}."
    )
    if action not in ("run", "lmms"):  # which have it with their policies
        add_plugin(parser)
    if action == "cost":
        eval_cost.add_arguments(parser)
        _add_gaze(parser)
        return parser
    if action == "routing":
        eval_routing.add_arguments(parser)
        _add_gaze(parser)
        return parser
    if action == "lmms":
        eval_lmms.add_arguments(parser)
    if action == "score":
        parser.add_argument("run", metavar="DIR", help="the --output of a run")
    elif action == "table":
        parser.add_argument("table", metavar="TABLE.yaml", help="such as eval/tables/table1.yaml")
        parser.add_argument("--row", required=True, metavar="NAME", help="the row to fill, as the table names it")
        parser.add_argument("--against", metavar="DIR", help="another run: differences, paired by scoring group")
    if action in ("run", "doctor"):
        parser.add_argument(
            "--tasks",
            required=True,
            metavar="NAMES",
            help="benchmarks or suites joined by commas (image, video, mme, gqa, …), or a suite file such as "
            "eval/suites/image.yaml",
        )
    if action in ("run", "table"):
        parser.add_argument("--model", required=action == "run", metavar="DIR", help=_MODEL_HELP[action])
    if action in ("run", "table", "lmms"):
        _add_run(parser, "rows per task" if action == "lmms" else "scoring groups per benchmark")
    if action == "table":
        # None: not given, so that the row's own frames can be told from what contradicts them.
        parser.set_defaults(**dict.fromkeys(_frame_defaults(parser)))
    if action != "score":
        _add_data(parser)
    if action in ("run", "lmms"):
        _add_gaze(parser)
    if action in ("run", "lmms"):
        add_policy(parser)
    if action == "run":
        parser.add_argument("--output", required=True, metavar="DIR", help="journals, answers and scores")
    if action == "table":
        parser.add_argument("--output", metavar="DIR", help="the run's folder; default: runs/eval/ROW")
    if action in ("run", "table"):
        parser.add_argument(
            "--protocol",
            default="cambrian" if action == "run" else "both",
            choices=("cambrian", "official", "both"),
            help="the parent's rules, the benchmarks' own, or both; default: %(default)s",
        )
    return parser


def _frame_defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The options of frames, and their defaults."""
    return {action.dest: action.default for action in parser._actions if action.dest.startswith("video_")}


def take_frames(arguments: argparse.Namespace, wanted: dict[str, Any]) -> None:
    """Fill in how frames are chosen: as the row has it, else as given, else the default.

    Raises: ValueError where an option contradicts the row.
    """
    parser = argparse.ArgumentParser()
    add_video(parser)
    for name, default in _frame_defaults(parser).items():
        given = getattr(arguments, name)
        if name in wanted and given is not None and given != wanted[name]:
            raise ValueError(f"the row has {name}: {wanted[name]}, so --{name} {given} would make another row")
        setattr(arguments, name, wanted.get(name, default if given is None else given))


_MODEL_HELP = {
    "run": "folder of save_pretrained, or a Hub name",
    "table": "folder of save_pretrained, or a Hub name; without it the answers in --output are taken as they are",
}


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_root",
        "--data-root",
        metavar="DIR",
        help="local copies of the datasets, in DIR/OWNER/NAME; default: the hub and its cache (not for videos)",
    )


def _add_run(parser: argparse.ArgumentParser, limited: str) -> None:
    parser.add_argument("--num_processes", type=positive, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument("--batch_size", type=positive, default=16, metavar="N", help="per process; default: 16")
    parser.add_argument("--limit", type=positive, metavar="N", help=f"only N {limited}; the run is then INCOMPLETE")
    parser.add_argument(
        "--max_new_tokens", type=positive, metavar="N", help="cut answers off for a trial; the run is then INCOMPLETE"
    )
    add_video(parser)
    add_system(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: cuda where there is one, one per process")


def _add_gaze(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gaze",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="run-time options of the gaze, such as top_k=2 or keep_ratio=1.0; default: as the checkpoint has it",
    )
